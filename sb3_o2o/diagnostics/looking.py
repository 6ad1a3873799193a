"""Diagnostics of policy and critics while training."""

from __future__ import annotations

import os
from typing import Annotated, Any, ClassVar

import numpy as np

from sb3_o2o.checked import checked
from sb3_o2o.data import OfflineReplayBuffer
from sb3_o2o.data.sources import AnyDataset
from sb3_o2o.diagnostics.diagnostic import DiagnosticsCallback
from sb3_o2o.diagnostics.environment import raw_environments, refuse_training_environment
from sb3_o2o.diagnostics.measure import (
    Candidates,
    check_drift,
    looking,
    mean_q_and_td_error,
    newest_transitions,
    online_buffer,
    policy_and_q_drift,
)
from sb3_o2o.diagnostics.on_policy_values import on_policy_q_values
from sb3_o2o.diagnostics.q_values import mean_or_nan, mean_window_tau, normalized_difference
from sb3_o2o.evaluation.eval_callback import is_pretraining
from sb3_o2o.evaluation.evaluate import AnyEnvironments
from sb3_o2o.kinds import Count, Seed, whole
from sb3_o2o.networks import frozen_copy
from sb3_o2o.objectives import Batch


class QValueDiagnostics(DiagnosticsCallback):
    """
    Is the critic right about the present policy? Rolls the policy out in an environment of its own and logs

    - ``kendall_tau``: rank correlation of estimated and true Q in windows of each episode, averaged over episodes
      (:func:`~sb3_o2o.diagnostics.q_values.mean_window_tau`)
    - ``q_difference``: normalised difference (:func:`~sb3_o2o.diagnostics.q_values.normalized_difference`)
    - ``q_estimated``, ``q_true``: their means

    over the same steps; what counts as true is said in
    :func:`~sb3_o2o.diagnostics.on_policy_values.on_policy_q_values`. Source: SO2 (Zhang et al. 2024), figures 2b, 2c
    and 5b. Policies that act through a callback's ``act`` are measured without.

    :param env: environment that pays raw rewards, or several, whose episodes are then played side by side, its id, or a
        function that makes one; not the training's own
    :param freq: calls between two measurements. Three episodes of 1000 steps cost about as much as a few hundred
        training steps
    :param n_episodes: episodes of each measurement
    :param window: steps in a window
    :param n_windows: windows in an episode; ten in the paper
    :param log_path: see :class:`~sb3_o2o.diagnostics.diagnostic.DiagnosticsCallback`
    :param seed: of the episodes, the same at every measurement
    :param n_envs: environments to make, where an id or a function says how; default: one for each episode, up to 16
    :raises ValueError: for a number out of range, the training's environment, or ``n_envs`` of environments that are
        there already
    """

    name: ClassVar[str] = "q_values"

    @checked
    def __init__(
        self,
        env: AnyEnvironments,
        freq: Count = 25_000,
        n_episodes: Count = 3,
        window: Annotated[int, whole(2)] = 50,
        n_windows: Count = 10,
        log_path: str | os.PathLike[str] | None = None,
        seed: Seed = 0,
        n_envs: Count | None = None,
    ):
        super().__init__(freq, log_path, seed)
        self.env = raw_environments(env, n_episodes, n_envs)
        self.n_episodes, self.window, self.n_windows = n_episodes, window, n_windows

    def _init_callback(self) -> None:
        super()._init_callback()
        refuse_training_environment(self.env, self.model, type(self).__name__)

    def measure(self) -> dict[str, float]:
        """See :class:`~sb3_o2o.diagnostics.diagnostic.DiagnosticsCallback`."""
        episodes = on_policy_q_values(self.model, self.env, self.n_episodes, self.seed)
        taus = [mean_window_tau(each.estimated, each.true, self.window, self.n_windows) for each in episodes]
        estimated = np.concatenate([each.estimated for each in episodes])
        true = np.concatenate([each.true for each in episodes])
        return {
            "kendall_tau": mean_or_nan(taus),
            "q_difference": normalized_difference(estimated, true),
            "q_estimated": float(estimated.mean()),
            "q_true": float(true.mean()),
        }


class _OnData(DiagnosticsCallback):
    """
    Diagnostics on a fixed sample of the dataset and on the newest online transitions: those collected while this looked
    on, whatever else the buffer was given (such as the dataset, by ``DatasetReplay``).

    :param freq: see :class:`~sb3_o2o.diagnostics.diagnostic.DiagnosticsCallback`
    :param n_samples: transitions of each kind
    :param dataset: what ``OfflineDataset.load`` accepts; the model's by default
    :param log_path: see :class:`~sb3_o2o.diagnostics.diagnostic.DiagnosticsCallback`
    :param seed: of the sample
    """

    @checked
    def __init__(
        self, freq: Count, n_samples: Count, dataset: AnyDataset, log_path: str | os.PathLike[str] | None, seed: Seed
    ):
        super().__init__(freq, log_path, seed)
        self.n_samples = n_samples
        self.dataset = dataset
        self._buffer: OfflineReplayBuffer | None = None
        # rows of the online buffer that were collected before ``_position``, which is where the next one went
        self._n_collected = 0
        self._position: int | None = None

    def _init_callback(self) -> None:
        super()._init_callback()
        model: Any = self.model
        source = self.dataset
        if source is None:
            source = model.offline_buffer.dataset if model.offline_buffer is not None else model.dataset
        if source is None:
            raise ValueError(
                f"{type(self).__name__} compares with the dataset, and the model has none: pass dataset=… to it, to "
                "the constructor or to load_offline."
            )
        # what the model itself has opened is on the training scale of rewards already
        opened = model.offline_buffer is not None and source is model.offline_buffer.dataset
        dataset = source if opened else model.load_dataset(source)
        # not open_offline_buffer: that counts buffers, and the next one's seed would be another
        spaces = model.observation_space, model.action_space
        n_steps = model.offline_n_steps  # as in the online buffer's rows
        self._buffer = OfflineReplayBuffer(
            dataset, *spaces, model.device, n_steps=n_steps, gamma=model.gamma, seed=self.seed
        )

    def _on_step(self) -> bool:
        if not is_pretraining(self.model):
            self._n_collected, self._position = self._count_collected(), online_buffer(self.model).pos
        return super()._on_step()

    def _count_collected(self) -> int:
        """Rows that steps have made, as of the last one. SB3 stores a step after its callbacks: one may be new."""
        buffer = online_buffer(self.model)
        if buffer is None or self._position is None:
            return 0
        n_new = (buffer.pos - self._position) % buffer.buffer_size
        return self._n_collected + n_new if n_new <= 1 else 0  # a dataset was written behind those

    def _batches(self) -> dict[str, Batch | None]:
        """The two kinds of data; None for one that there is nothing of yet. Called inside of ``looking``."""
        assert self._buffer is not None
        model: Any = self.model
        indices = np.random.default_rng(self.seed).integers(self._buffer.size(), size=self.n_samples)
        offline = model.to_batch(self._buffer._get_samples(indices, env=model.get_vec_normalize_env()))
        online = None if is_pretraining(model) else newest_transitions(model, self.n_samples, self._count_collected())
        return {"offline": offline, "online": online}

    def measure(self) -> dict[str, float]:
        """See :class:`~sb3_o2o.diagnostics.diagnostic.DiagnosticsCallback`."""
        found: dict[str, float] = {}
        with looking(self.model, self.seed):
            for kind, batch in self._batches().items():
                for name, value in self.measure_batch(batch).items():
                    found[f"{name}_{kind}"] = value
        return found

    def measure_batch(self, batch: Batch | None) -> dict[str, float]:
        """
        :param batch: transitions; None where there are none
        :return: what there is to say about them
        """
        raise NotImplementedError


class DataDiagnostics(_OnData):
    """
    Mean Q and mean squared TD error on a fixed sample of the dataset and on the newest online transitions:
    ``q_offline``, ``q_online``, ``td_error_offline``, ``td_error_online``
    (:func:`~sb3_o2o.diagnostics.measure.mean_q_and_td_error`).
    Source: WSRL (Zhou et al. 2024), figures 3 and 11.

    :param freq: calls between two measurements
    :param n_samples: transitions of each kind
    :param dataset: what ``OfflineDataset.load`` accepts; the model's by default
    :param log_path: see :class:`~sb3_o2o.diagnostics.diagnostic.DiagnosticsCallback`
    :param seed: of the sample and of the next actions
    :raises ValueError: for a number out of range; when training starts, without a dataset
    """

    name: ClassVar[str] = "data"

    @checked
    def __init__(
        self,
        freq: Count = 1_000,
        n_samples: Count = 1_024,
        dataset: AnyDataset = None,
        log_path: str | os.PathLike[str] | None = None,
        seed: Seed = 0,
    ):
        super().__init__(freq, n_samples, dataset, log_path, seed)

    def measure_batch(self, batch: Batch | None) -> dict[str, float]:
        """See :class:`_OnData`."""
        q, error = (np.nan, np.nan) if batch is None else mean_q_and_td_error(self.model, batch, self.seed)
        return {"q": q, "td_error": error}


class DriftDiagnostics(_OnData):
    """
    How far policy and critic have moved from where the call of ``learn`` found them: ``policy_kl_offline``,
    ``policy_kl_online``, ``q_kl_offline``, ``q_kl_online``
    (:func:`~sb3_o2o.diagnostics.measure.policy_and_q_drift`), on states of the dataset and on the newest online ones.
    Source: WSRL (Zhou et al. 2024), app. E, which looks every 2000 steps. Pre-training is left out. Deterministic
    policies have no KL: ``policy_kl`` is NaN and is not logged, ``q_kl`` is there.

    :param freq: calls between two measurements
    :param n_samples: states of each kind
    :param n_candidates: candidate actions per state, even
    :param dataset: what ``OfflineDataset.load`` accepts; the model's by default
    :param log_path: see :class:`~sb3_o2o.diagnostics.diagnostic.DiagnosticsCallback`
    :param seed: of the sample and of the candidates
    :raises ValueError: for a number out of range; when training starts, without a dataset, or for gSDE
    """

    name: ClassVar[str] = "drift"
    online_only: ClassVar[bool] = True

    @checked
    def __init__(
        self,
        freq: Count = 2_000,
        n_samples: Count = 256,
        n_candidates: Candidates = 20,
        dataset: AnyDataset = None,
        log_path: str | os.PathLike[str] | None = None,
        seed: Seed = 0,
    ):
        super().__init__(freq, n_samples, dataset, log_path, seed)
        self.n_candidates = n_candidates
        #: parameters of actor and critic at the switch; plain tensors, so that resume bundles hold them
        self.reference: tuple[dict[str, Any], dict[str, Any]] | None = None
        # networks that hold them
        self._actor: Any = None
        self._critic: Any = None

    @classmethod
    def check(cls, model: Any) -> None:
        """See :class:`~sb3_o2o.diagnostics.diagnostic.DiagnosticsCallback`."""
        check_drift(model, cls.__name__)

    def _begin(self) -> None:
        super()._begin()
        model: Any = self.model
        actor, critic = (
            {name: value.detach().clone() for name, value in part.state_dict().items()}
            for part in (model.actor, model.critic)
        )
        self.reference = actor, critic
        self._freeze()

    def _on_training_start(self) -> None:
        super()._on_training_start()
        if not self._skips():
            self._freeze()  # of a resumed run

    def _freeze(self) -> None:
        assert self.reference is not None
        model: Any = self.model
        self._actor, self._critic = frozen_copy(model.actor), frozen_copy(model.critic)
        for network, parameters in zip((self._actor, self._critic), self.reference, strict=True):
            network.load_state_dict(parameters)

    def measure_batch(self, batch: Batch | None) -> dict[str, float]:
        """See :class:`_OnData`."""
        policy_kl = q_kl = np.nan
        if batch is not None:
            arguments = self._actor, self._critic, batch.observations, self.n_candidates, self.seed
            policy_kl, q_kl = policy_and_q_drift(self.model, *arguments)
        return {"policy_kl": policy_kl, "q_kl": q_kl}

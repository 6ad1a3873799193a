"""Diagnostics while training: callbacks that log, write what they found, and leave no trace in the run."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecNormalize

from sb3_o2o.data import OfflineReplayBuffer
from sb3_o2o.diagnostics.measure import (
    check_model,
    frozen_copy,
    is_pretraining,
    looking,
    mean_or_nan,
    mean_q_and_td_error,
    newest_transitions,
    on_policy_q_values,
    policy_and_q_drift,
)
from sb3_o2o.diagnostics.q_values import mean_window_tau, normalized_difference
from sb3_o2o.evaluation import NormalizedEvalCallback, preserved_random_state
from sb3_o2o.evaluation.metrics import drop_at_switch, is_success, regret, steps_to_recover
from sb3_o2o.objectives import Batch

#: folder of diagnostics beside a phase's evaluations
FOLDER = "diagnostics"


class DiagnosticsCallback(BaseCallback):
    """
    What the diagnostics share: they measure before the first step, every ``freq`` calls and at the end, log under
    ``diagnostics/``, and keep what they found in ``<log_path>/diagnostics/<name>.npz``: ``timesteps`` and an array for
    each quantity, as Stable-Baselines3's ``EvalCallback`` does. They draw nothing from the training's random streams: a
    run's parameters are the same bit for bit with and without them.

    Sub-classes say what they measure in :meth:`measure`.

    :param freq: calls between two measurements: gradient steps offline, steps of all environments together online
    :param log_path: folder for what was found; None keeps it in memory (``timesteps`` and ``values``)
    :param seed: of what is drawn; an interrupted run measures as an uninterrupted one does
    :raises ValueError: if ``freq`` is below 1
    """

    name: ClassVar[str]

    def __init__(self, freq: int, log_path: str | os.PathLike[str] | None, seed: int):
        super().__init__()
        if freq < 1:
            raise ValueError(f"{type(self).__name__}(freq) must be at least 1, not {freq}.")
        self.freq = freq
        self.log_path = None if log_path is None else Path(log_path)
        self.seed = seed
        self.timesteps: list[int] = []
        self.values: dict[str, list[float]] = {}
        #: wall-clock seconds spent measuring
        self.seconds = 0.0

    def measure(self) -> dict[str, float]:
        """:return: what there is to say now, by name; NaN where a quantity does not exist"""
        raise NotImplementedError

    def _init_callback(self) -> None:
        check_model(self.model, type(self).__name__)

    def _on_training_start(self) -> None:
        if not self.timesteps:  # a run that goes on has its earlier measurements
            self._look()

    def _on_step(self) -> bool:
        if self.n_calls % self.freq == 0:
            self._look()
        return True

    def _on_training_end(self) -> None:
        # a phase that was cut short gets no last point: going on would repeat it
        if self.num_timesteps >= self.model._total_timesteps:
            self._look()

    def _look(self) -> None:
        if self.timesteps and self.timesteps[-1] == self.num_timesteps:
            return
        started = time.perf_counter()
        found = self.measure()
        self.seconds += time.perf_counter() - started
        for name, value in found.items():
            self.values.setdefault(name, []).append(value)
            if not np.isnan(value):
                self.logger.record(f"diagnostics/{name}", value)
        self.timesteps.append(self.num_timesteps)
        self.logger.record("time/total_timesteps", self.num_timesteps, exclude="tensorboard")
        self.logger.dump(self.num_timesteps)
        if self.log_path is not None:
            folder = self.log_path / FOLDER
            folder.mkdir(parents=True, exist_ok=True)
            arrays: dict[str, Any] = {name: np.array(values) for name, values in self.values.items()}
            np.savez(folder / f"{self.name}.npz", timesteps=np.array(self.timesteps), **arrays)


class QValueDiagnostics(DiagnosticsCallback):
    """
    Is the critic right about the present policy? Rolls the policy out in an environment of its own and logs

    - ``kendall_tau``: rank correlation of estimated and true Q in windows of each episode, averaged over episodes
      (:func:`~sb3_o2o.diagnostics.q_values.mean_window_tau`)
    - ``q_difference``: normalised difference (:func:`~sb3_o2o.diagnostics.q_values.normalized_difference`)
    - ``q_estimated``, ``q_true``: their means

    over the same steps; what counts as true is said in :func:`~sb3_o2o.diagnostics.measure.on_policy_q_values`. Source:
    SO2 (Zhang et al. 2024), figures 2b, 2c and 5b. Policies that act through a callback's ``act`` are measured without.

    :param env: one environment that pays raw rewards, or its id; not the training's own
    :param freq: calls between two measurements. Three episodes of 1000 steps cost about as much as a few hundred
        training steps
    :param n_episodes: episodes of each measurement
    :param window: steps in a window
    :param n_windows: windows in an episode; ten in the paper
    :param log_path: see :class:`DiagnosticsCallback`
    :param seed: of the environment and of the policy's draws, the same at every measurement
    :raises ValueError: for a number out of range, several environments, or the training's environment
    """

    name: ClassVar[str] = "q_values"

    def __init__(
        self,
        env: gym.Env[Any, Any] | VecEnv | str,
        freq: int = 25_000,
        n_episodes: int = 3,
        window: int = 50,
        n_windows: int = 10,
        log_path: str | os.PathLike[str] | None = None,
        seed: int = 0,
    ):
        super().__init__(freq, log_path, seed)
        if n_episodes < 1 or window < 2 or n_windows < 1:
            raise ValueError(
                "QValueDiagnostics needs n_episodes >= 1, window >= 2 and n_windows >= 1, "
                f"not {n_episodes}, {window} and {n_windows}."
            )
        self.env = _single(env)
        self.n_episodes, self.window, self.n_windows = n_episodes, window, n_windows

    def _init_callback(self) -> None:
        super()._init_callback()
        if _environments(self.env) & _environments(self.model.get_env()):
            raise ValueError(
                "QValueDiagnostics(env) is the environment that the model trains in: rolling out there would change "
                "the run. Make another one."
            )

    def measure(self) -> dict[str, float]:
        """See :class:`DiagnosticsCallback`."""
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
    Diagnostics on a fixed sample of the dataset and on the newest online transitions.

    :param freq: see :class:`DiagnosticsCallback`
    :param n_samples: transitions of each kind
    :param dataset: what ``OfflineDataset.load`` accepts; the model's by default
    :param log_path: see :class:`DiagnosticsCallback`
    :param seed: of the sample
    """

    def __init__(self, freq: int, n_samples: int, dataset: Any, log_path: str | os.PathLike[str] | None, seed: int):
        super().__init__(freq, log_path, seed)
        if n_samples < 1:
            raise ValueError(f"{type(self).__name__}(n_samples) must be at least 1, not {n_samples}.")
        self.n_samples = n_samples
        self.dataset = dataset
        self._buffer: OfflineReplayBuffer | None = None

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
        self._buffer = OfflineReplayBuffer(dataset, *spaces, model.device, gamma=model.gamma, seed=self.seed)

    def _batches(self) -> dict[str, Batch | None]:
        """The two kinds of data; None for one that there is nothing of yet. Called inside of ``looking``."""
        assert self._buffer is not None
        model: Any = self.model
        indices = np.random.default_rng(self.seed).integers(self._buffer.size(), size=self.n_samples)
        offline = model.to_batch(self._buffer._get_samples(indices, env=model.get_vec_normalize_env()))
        is_empty = is_pretraining(model) or model.replay_buffer is None or model.replay_buffer.size() == 0
        return {"offline": offline, "online": None if is_empty else newest_transitions(model, self.n_samples)}

    def measure(self) -> dict[str, float]:
        """See :class:`DiagnosticsCallback`."""
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
    :param log_path: see :class:`DiagnosticsCallback`
    :param seed: of the sample and of the next actions
    :raises ValueError: for a number out of range; when training starts, without a dataset
    """

    name: ClassVar[str] = "data"

    def __init__(
        self,
        freq: int = 1_000,
        n_samples: int = 1_024,
        dataset: Any = None,
        log_path: str | os.PathLike[str] | None = None,
        seed: int = 0,
    ):
        super().__init__(freq, n_samples, dataset, log_path, seed)

    def measure_batch(self, batch: Batch | None) -> dict[str, float]:
        """See :class:`_OnData`."""
        q, error = (np.nan, np.nan) if batch is None else mean_q_and_td_error(self.model, batch)
        return {"q": q, "td_error": error}


class DriftDiagnostics(_OnData):
    """
    How far policy and critic have moved from where the call of ``learn`` found them: ``policy_kl_offline``,
    ``policy_kl_online``, ``q_kl_offline``, ``q_kl_online``
    (:func:`~sb3_o2o.diagnostics.measure.policy_and_q_drift`), on states of the dataset and on the newest online ones.
    Source: WSRL (Zhou et al. 2024), app. E, which looks every 2000 steps. Pre-training is left out.

    :param freq: calls between two measurements
    :param n_samples: states of each kind
    :param n_candidates: candidate actions per state, even
    :param dataset: what ``OfflineDataset.load`` accepts; the model's by default
    :param log_path: see :class:`DiagnosticsCallback`
    :param seed: of the sample and of the candidates
    :raises ValueError: for a number out of range; when training starts, without a dataset, or for a policy that is no
        squashed Gaussian
    """

    name: ClassVar[str] = "drift"

    def __init__(
        self,
        freq: int = 2_000,
        n_samples: int = 256,
        n_candidates: int = 20,
        dataset: Any = None,
        log_path: str | os.PathLike[str] | None = None,
        seed: int = 0,
    ):
        super().__init__(freq, n_samples, dataset, log_path, seed)
        if n_candidates < 2 or n_candidates % 2:
            raise ValueError(f"DriftDiagnostics(n_candidates) must be even and at least 2, not {n_candidates}.")
        self.n_candidates = n_candidates
        #: parameters of actor and critic at the switch; plain tensors, so that resume bundles hold them
        self.reference: tuple[dict[str, Any], dict[str, Any]] | None = None
        # modules, which bundles leave out
        self._actor: Any = None
        self._critic: Any = None

    def _init_callback(self) -> None:
        super()._init_callback()
        actor: Any = getattr(self.model, "actor", None)
        if not hasattr(actor, "rsample") or actor.use_sde:
            kind = "gSDE" if getattr(actor, "use_sde", False) else f"a {type(actor).__name__}"
            raise ValueError(f"DriftDiagnostics measures the KL of squashed Gaussians, and this policy is {kind}.")

    def _on_training_start(self) -> None:
        model: Any = self.model
        if is_pretraining(model):
            return
        if self.reference is None or not self.timesteps:
            parts = (model.actor, model.critic)
            self.reference = tuple(  # type: ignore[assignment]
                {name: value.detach().clone() for name, value in part.state_dict().items()} for part in parts
            )
        assert self.reference is not None
        self._actor, self._critic = frozen_copy(model.actor), frozen_copy(model.critic)
        for network, parameters in zip((self._actor, self._critic), self.reference, strict=True):
            network.load_state_dict(parameters)
        super()._on_training_start()

    def _look(self) -> None:
        if not is_pretraining(self.model):
            super()._look()

    def measure_batch(self, batch: Batch | None) -> dict[str, float]:
        """See :class:`_OnData`."""
        policy_kl = q_kl = np.nan
        if batch is not None:
            networks = (self._actor, self._critic)
            policy_kl, q_kl = policy_and_q_drift(self.model, *networks, batch.observations, self.n_candidates)
        return {"policy_kl": policy_kl, "q_kl": q_kl}


class SwitchDiagnostics(DiagnosticsCallback):
    """
    What the switch cost, after each evaluation: ``drop`` (how far the score fell below the pre-trained policy's),
    ``steps_to_recover`` (infinite until it is back) and, where the environment reports success, ``regret`` over the
    training's own episodes. Formulas in :mod:`sb3_o2o.evaluation.metrics`; regret as in CORL's fine-tuning.

    :param evaluation: the run's evaluation callback, earlier in the list than this one. Scores are normalised where it
        has references
    :param offline_score: score of the pre-trained policy, in the same unit; by default the evaluation at the start
    :param log_path: see :class:`DiagnosticsCallback`
    :raises ValueError: if nothing gives the score at the switch
    """

    name: ClassVar[str] = "switch"

    def __init__(
        self,
        evaluation: EvalCallback,
        offline_score: float | None = None,
        log_path: str | os.PathLike[str] | None = None,
    ):
        super().__init__(1, log_path, 0)
        if offline_score is None and not getattr(evaluation, "at_start", False):
            raise ValueError(
                "SwitchDiagnostics needs the score at the switch: evaluate with NormalizedEvalCallback(at_start=True), "
                "or pass offline_score=…"
            )
        self.evaluation = evaluation
        self.offline_score = offline_score
        self.successes: list[bool] = []
        self._running: dict[int, bool] = {}

    def _init_callback(self) -> None:
        """Any model will do: this looks at returns alone."""

    def _on_step(self) -> bool:
        infos, dones = self.locals.get("infos"), self.locals.get("dones")
        if infos is not None and dones is not None:
            for index, (info, done) in enumerate(zip(infos, dones, strict=True)):
                success = is_success(info)
                if success is not None:
                    self._running[index] = self._running.get(index, False) or success
                if done and index in self._running:
                    self.successes.append(self._running.pop(index))
        return super()._on_step()

    def _look(self) -> None:
        evaluated = self.evaluation.evaluations_timesteps
        if not is_pretraining(self.model) and evaluated and evaluated[-1] == self.num_timesteps:
            super()._look()

    def measure(self) -> dict[str, float]:
        """See :class:`DiagnosticsCallback`."""
        steps = np.array(self.evaluation.evaluations_timesteps)
        scores = np.array([np.mean(returns) for returns in self.evaluation.evaluations_results])
        reference = self.evaluation.reference if isinstance(self.evaluation, NormalizedEvalCallback) else None
        scores = scores if reference is None else reference.normalize(scores)
        offline = float(scores[0]) if self.offline_score is None else self.offline_score
        steps = steps - (steps[0] if self.offline_score is None else 0)
        return {
            "drop": drop_at_switch(steps, scores, offline),
            "steps_to_recover": steps_to_recover(steps, scores, offline),
            "regret": regret(self.successes) if self.successes else np.nan,
        }


def _single(env: gym.Env[Any, Any] | VecEnv | str) -> VecEnv:
    if isinstance(env, str):
        with preserved_random_state():  # making one draws numbers
            return make_vec_env(env)
    if not isinstance(env, VecEnv):
        return DummyVecEnv([lambda: env])
    if env.num_envs != 1:
        raise ValueError(f"QValueDiagnostics follows one episode at a time: give one environment, not {env.num_envs}.")
    # observations and rewards are normalised with the training's present statistics, not with this one's
    return env.venv if isinstance(env, VecNormalize) else env


def _environments(env: VecEnv | None) -> set[int]:
    """The environments in this process behind a vectorised one."""
    return set() if env is None else {id(each.unwrapped) for each in getattr(env.unwrapped, "envs", [])}

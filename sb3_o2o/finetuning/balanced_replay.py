"""Offline and online transitions drawn by how likely they are online."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal

import numpy as np
import torch as th
from stable_baselines3.common.buffers import ReplayBuffer

from sb3_o2o.checked import checked
from sb3_o2o.data import ReplaySamples, SumTree, concatenate_samples
from sb3_o2o.data.online import samples_at, unfinished_steps
from sb3_o2o.data.samples import take_rows
from sb3_o2o.data.sources import AnyDataset
from sb3_o2o.errors import NonFiniteError
from sb3_o2o.finetuning.callback import MIXTURE
from sb3_o2o.finetuning.replay import _DatasetCallback, check_drawn_by_place
from sb3_o2o.kinds import Count, InnerFraction, Positive
from sb3_o2o.networks.normalizer import NormalizedExtractor
from sb3_o2o.networks.ratio import DensityRatio, state_action_inputs
from sb3_o2o.objectives import Batch
from sb3_o2o.objectives import finetuning_functional as FF
from sb3_o2o.search_space import Range, SearchSpace


class BalancedReplay(_DatasetCallback):
    """
    Balanced replay (Off2On: Lee et al. 2021; also OPT): one pool of the dataset and the online buffer, of
    which transitions are drawn by priority. After each update a network of the density ratio of online to offline
    pairs (s, a) is trained on a uniform batch of either, and the transitions that the update saw get its ratio as their
    priority; those of the dataset start at 1. The online buffer stays online: do not load the dataset into it as well.

    New transitions have a priority before the network has seen them, by one of two rules: ``"max"`` (OPT), the largest
    so far; ``"fraction"`` (Off2On), such that the first ``initial_steps`` of them are drawn ``online_fraction`` of the
    time.

    Draws are stratified and come from a random generator of its own. A saved model keeps the network and the dataset's
    priorities; a resume bundle keeps all.

    :param temperature: T > 0 of the priorities ``w^(1/T)``; 5 in both papers' code
    :param new_priority: ``"max"`` or ``"fraction"``
    :param online_fraction: of ``"fraction"``, in (0, 1); 0.5 in Off2On's code, 0.75 in its instructions
    :param initial_steps: of ``"fraction"``, online transitions that together make up that fraction, at least 1
    :param ratio_batch_size: offline and online transitions in each update of the network
    :param ratio_learning_rate: the network's, > 0
    :param ratio_net_arch: its units per hidden layer; two layers of 256 by default
    :param dataset: see :class:`~sb3_o2o.finetuning.replay._DatasetCallback`
    :raises ValueError: for a number out of range, or an unknown rule
    """

    needs_replay_buffer = True
    exclusive = (MIXTURE,)
    search_space: ClassVar[SearchSpace] = {"temperature": Range(1.0, 10.0), "online_fraction": Range(0.25, 0.75)}

    @checked
    def __init__(
        self,
        temperature: Positive = 5.0,
        new_priority: Literal["max", "fraction"] = "max",
        online_fraction: InnerFraction = 0.5,
        initial_steps: Count = 1000,
        ratio_batch_size: Count = 256,
        ratio_learning_rate: Positive = 3e-4,
        ratio_net_arch: list[Count] | None = None,
        dataset: AnyDataset = None,
    ):
        super().__init__(dataset)
        self.temperature = temperature
        self.new_priority = new_priority
        self.online_fraction = online_fraction
        self.initial_steps = initial_steps
        self.ratio_batch_size = ratio_batch_size
        self.ratio_learning_rate = ratio_learning_rate
        self.ratio_net_arch = [256, 256] if ratio_net_arch is None else list(ratio_net_arch)
        self.begin_new_run()

    def begin_new_run(self) -> None:
        """See :meth:`FineTuningCallback.begin_new_run`."""
        super().begin_new_run()
        self.tree: SumTree | None = None
        #: entries of the tree that are the dataset's; those of the online buffer follow, row by row
        self._n_offline = 0
        self.ratio: DensityRatio | None = None
        self.largest_priority = 1.0
        self._offline_priorities: np.ndarray | None = None
        self._drawn = np.empty(0, dtype=np.int64)
        self._share = 0.0
        self._loss: th.Tensor | None = None
        # the online buffer's next row when it was last looked at, and each environment's newest steps that are in it
        # and not in the tree
        self._position, self._waiting = 0, np.zeros(0, dtype=np.int64)

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__()
        if self.tree is not None:
            # a saved model has no online buffer, whose priorities would mean nothing
            state["_offline_priorities"] = self.tree.priorities[: self._n_offline].astype(np.float32)
        state["tree"], state["_loss"] = None, None
        return state

    @property
    def _online(self) -> ReplayBuffer:
        return self.model.replay_buffer

    def _init_callback(self) -> None:
        super()._init_callback()
        check_drawn_by_place(self._online, "BalancedReplay")

    def _on_training_start(self) -> None:
        dataset = self._open().dataset
        if self.ratio is None:
            row = self._open()._get_samples(np.zeros(1, dtype=np.int64))
            n_inputs = self._inputs(row.observations, row.actions).shape[1]
            seed = int(self._open().rng.integers(2**31))
            self.ratio = DensityRatio(n_inputs, self.ratio_net_arch, self.ratio_learning_rate, seed)
        self.ratio.to(self.model.device)
        if self.tree is None or not self._fits(self.tree, len(dataset)):
            self._plant(len(dataset))

    def _fits(self, tree: SumTree, n_offline: int) -> bool:
        """Whether the tree still describes the data: a buffer may have been loaded, or the dataset exchanged."""
        buffer = self._online
        n_new = (buffer.pos - self._position) % buffer.buffer_size
        # a callback may have stopped the last call: the step that it saw has come in since, and is not listed yet
        if tree.capacity != n_offline + buffer.buffer_size * buffer.n_envs or n_new > 1:
            return False
        self._list_new()
        n_listed = buffer.size() * buffer.n_envs - int(self._waiting.sum())
        return int(np.count_nonzero(tree.priorities[n_offline:])) == n_listed

    def _plant(self, n_offline: int) -> None:
        saved, self._offline_priorities = self._offline_priorities, None
        if saved is None or len(saved) != n_offline:
            saved = np.ones(n_offline)
        buffer = self._online
        self._n_offline = n_offline
        self.tree = SumTree(n_offline + buffer.buffer_size * buffer.n_envs)
        self.tree.update(np.arange(n_offline), saved)
        self._position, self._waiting = buffer.pos, np.full(buffer.n_envs, buffer.size(), dtype=np.int64)
        self._list_new()

    # -- new transitions -------------------------------------------------------------------------------------------

    def _on_step(self) -> bool:
        self._list_new()  # one row at most is new at each step, so that a ring that comes round is noticed
        return True

    def _list_new(self) -> None:
        """Give priorities to transitions that have come into the online buffer, once they may be sampled."""
        assert self.tree is not None
        buffer = self._online
        n_new = (buffer.pos - self._position) % buffer.buffer_size
        if n_new == 0 and not self._waiting.any():
            return
        self._position = buffer.pos
        self._waiting = np.minimum(self._waiting + n_new, buffer.buffer_size)
        unfinished = np.minimum(unfinished_steps(buffer), self._waiting)
        age = np.arange(1, int(self._waiting.max()) + 1)[:, None]
        listed = (age <= self._waiting) & (age > unfinished)
        overwritten = (age <= n_new) & ~listed  # and not yet to be sampled
        rows, columns = (buffer.pos - age) % buffer.buffer_size, np.arange(buffer.n_envs)
        places = self._n_offline + rows * buffer.n_envs + columns
        self.tree.update(places[listed], self._priority_of_new())
        self.tree.update(places[overwritten], 0.0)
        self._waiting = unfinished

    def _priority_of_new(self) -> float:
        if self.new_priority == "max":
            return self.largest_priority
        return self._n_offline * self.online_fraction / ((1 - self.online_fraction) * self.initial_steps)

    # -- update ----------------------------------------------------------------------------------------------------

    def sample(self, batch_size: int) -> ReplaySamples:
        """
        :param batch_size: number of transitions
        :return: transitions of dataset and online buffer, drawn by priority
        """
        assert self.tree is not None
        self._list_new()
        self._drawn = self.tree.sample(batch_size, self._open().rng)
        is_online = self._drawn >= self._n_offline
        self._share = 1.0 - float(is_online.mean())
        order = np.argsort(is_online, kind="stable")
        ordered = self._drawn[order]
        env, split = self.model.get_vec_normalize_env(), len(ordered) - int(is_online.sum())
        offline = self._open()._get_samples(ordered[:split], env)
        if split == batch_size:
            return offline
        rows, columns = np.divmod(ordered[split:] - self._n_offline, self._online.n_envs)
        online = samples_at(self._online, rows, columns, env)
        if split == 0:
            return online
        both = concatenate_samples(offline, online, self.model.gamma)
        return take_rows(both, np.argsort(order))  # a block is cut into minibatches: no half may come first

    def after_update(self, batch: Batch, metrics: dict[str, th.Tensor]) -> None:
        """
        :param batch: the critics' transitions, whose priorities change
        :param metrics: not used
        """
        indices, self._drawn = self._drawn[: len(batch)], self._drawn[len(batch) :]
        if len(indices) != len(batch):
            return  # another callback has drawn them
        assert self.tree is not None
        assert self.ratio is not None
        offline, online = self._uniform_inputs()
        self._loss = self._train_ratio(offline, online)
        with th.no_grad():
            ratios = self.ratio(self._inputs(batch.observations, batch.actions))
            priorities = FF.replay_priorities(ratios, self.ratio(offline), self.temperature).cpu().numpy()
        self.tree.update(indices, priorities)
        self.largest_priority = max(self.largest_priority, float(priorities.max()))

    def _train_ratio(self, offline: th.Tensor, online: th.Tensor) -> th.Tensor:
        assert self.ratio is not None
        self.ratio.optimizer.zero_grad()
        loss = FF.density_ratio_loss(self.ratio(offline), self.ratio(online))
        if not math.isfinite(loss.item()):  # priorities are read in every update anyway
            arrays = {"offline": offline.detach().cpu().numpy(), "online": online.detach().cpu().numpy()}
            what = f"The loss of BalancedReplay's density ratio is {loss.item()} at environment step"
            raise NonFiniteError(
                f"{what} {self.model.num_timesteps}.", "Its learning_rate, or what it sees, is too large.", arrays
            )
        loss.backward()
        self.ratio.optimizer.step()
        return loss.detach()

    def _uniform_inputs(self) -> tuple[th.Tensor, th.Tensor]:
        """Uniform batches of the dataset and of the online buffer, as the network reads them."""
        env, size = self.model.get_vec_normalize_env(), self.ratio_batch_size
        offline = self._open().sample(size, env)
        rng = self._open().rng
        rows, columns = rng.integers(self._online.size(), size=size), rng.integers(self._online.n_envs, size=size)
        online = samples_at(self._online, rows, columns, env)
        return self._inputs(offline.observations, offline.actions), self._inputs(online.observations, online.actions)

    def _inputs(self, observations: Any, actions: th.Tensor) -> th.Tensor:
        extractor: Any = self.model.critic.features_extractor  # type: ignore[attr-defined]
        if isinstance(extractor, NormalizedExtractor):
            observations = extractor.normalize(observations)
        return state_action_inputs(observations, actions)

    def _on_rollout_end(self) -> None:
        if self._loss is not None:
            self.logger.record("finetune/density_ratio_loss", self._loss.item())
            self.logger.record("finetune/offline_share", self._share)

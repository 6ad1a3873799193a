"""Offline data in the fine-tuning batches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import numpy as np
from stable_baselines3 import HerReplayBuffer
from stable_baselines3.common.buffers import ReplayBuffer

from sb3_o2o.checked import checked
from sb3_o2o.data import MixedReplayBuffer, OfflineDataset, OfflineReplayBuffer, ReplaySamples, concatenate_samples
from sb3_o2o.data.dataset import DatasetReference
from sb3_o2o.data.online import samples_at, unfinished_steps
from sb3_o2o.data.sources import AnyDataset
from sb3_o2o.finetuning.callback import MIXTURE, FineTuningCallback
from sb3_o2o.kinds import Count, Fraction, kind, one_of
from sb3_o2o.search_space import Choice, Range, SearchSpace
from sb3_o2o.updates.sampling import is_same


class _DatasetCallback(FineTuningCallback):
    """
    A callback that draws from the offline dataset. Saved with a model, it keeps how to open the dataset, not the
    data: what came from memory has to be given again.

    :param dataset: what :meth:`~sb3_o2o.data.OfflineDataset.load` accepts; the dataset that the model was
        pre-trained on by default
    """

    @checked
    def __init__(self, dataset: AnyDataset = None):
        super().__init__()
        self.dataset = dataset
        self.buffer: OfflineReplayBuffer | None = None

    def begin_new_run(self) -> None:
        """See :meth:`FineTuningCallback.begin_new_run`."""
        self.buffer = None  # the model may be another one, or on another dataset

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__()
        state["buffer"] = None  # re-opened from the dataset when training starts
        if isinstance(self.dataset, OfflineDataset):
            # with its options; opened on first use, so that a model loads where the data are not
            state["dataset"] = self.dataset.reference if self.dataset.reopenable else None
        elif isinstance(self.dataset, ReplayBuffer | Mapping):
            state["dataset"] = None  # the data themselves
        return state

    def drawn_from(self, dataset: Any) -> Any:
        """See :meth:`FineTuningCallback.drawn_from`."""
        if isinstance(self.dataset, DatasetReference):
            self.dataset = self.dataset.open()
        return dataset if self.dataset is None else self.dataset

    def _open(self) -> OfflineReplayBuffer:
        if isinstance(self.dataset, DatasetReference):
            self.dataset = self.dataset.open()
        if self.buffer is not None and self.buffer._dataset is None:
            self._give_back(self.buffer)
        if self.buffer is None:
            self.buffer = self.model.open_offline_buffer(
                self.dataset, for_whom=type(self).__name__, whole_episodes=self._whole_episodes
            )
        return self.buffer

    def _give_back(self, buffer: OfflineReplayBuffer) -> None:
        """
        :param buffer: of a resume bundle, which holds the name of its dataset and the random generator
        :raises ValueError: if the data came from memory, and neither this callback nor the model has them
        """
        model: Any = self.model
        buffer.device = model.device
        source = model.dataset if self.dataset is None else self.dataset
        if source is not None and not is_same(model, source, buffer) and self.dataset is not None:
            self.buffer = None  # this callback was made for other data
        else:
            buffer.dataset  # noqa: B018  (opened now: data that are missing are an error before the first step)

    @property
    def _whole_episodes(self) -> bool:
        """Whether each transition has to lead to the end of its episode."""
        return False

    def _init_callback(self) -> None:
        buffer = getattr(self.model, "replay_buffer", None)
        if MIXTURE in self.exclusive and isinstance(buffer, MixedReplayBuffer):
            raise ValueError(
                f"{type(self).__name__} and MixedReplayBuffer would both decide {MIXTURE}: leave one of them out."
            )
        newest, own = self.model.offline_buffer, self.buffer
        if own is not None and self.dataset is None and newest is not None and newest.fingerprint != own.fingerprint:
            self.buffer = None  # the model has been pre-trained on another dataset since

    def _on_training_start(self) -> None:
        self._open()


class SymmetricReplay(_DatasetCallback):
    """
    A fixed share of every batch comes from the dataset (symmetric sampling; RLPD, section 4.1). The two parts
    are interleaved, so that every minibatch cut from a block keeps the share.

    :param offline_fraction: share of offline transitions, in [0, 1]
    :param dataset: see :class:`_DatasetCallback`
    """

    needs_replay_buffer = True
    exclusive = (MIXTURE,)
    search_space: ClassVar[SearchSpace] = {"offline_fraction": Range(0.1, 0.9)}

    @checked
    def __init__(self, offline_fraction: Fraction = 0.5, dataset: AnyDataset = None):
        super().__init__(dataset)
        self.offline_fraction = offline_fraction

    def sample(self, batch_size: int) -> ReplaySamples | None:
        """
        :param batch_size: number of transitions
        :return: ``round(batch_size * offline_fraction)`` offline transitions and the rest online
        """
        n_offline = round(batch_size * self.offline_fraction)
        if n_offline == 0:
            return None
        model: Any = self.model
        offline = self._open().sample(n_offline, env=model.get_vec_normalize_env())
        if n_offline == batch_size:
            return offline
        online = model.replay_buffer.sample(batch_size - n_offline, env=model.get_vec_normalize_env())
        return concatenate_samples(online, offline, model.gamma, interleave=True)


class FIFOReplay(_DatasetCallback):
    """
    A small share of every batch from the online buffer, the rest from a first-in-first-out buffer that starts full of
    the dataset and takes in every online transition, so that old data are pushed out (SO2's official code).

    The second buffer is not built: it holds as many transitions as the dataset, those of the dataset in a shuffled
    order, less as many as the online buffer holds, and these. Drawing from it is drawing how many are online, and then
    from either. Once the online buffer holds more than the dataset, it is the newest of these, a dataset's worth. Two
    differences from the official code: there, transitions of the warm-up stay out of the second buffer; and here it
    pushes nothing more out once the online buffer overwrites, so ``buffer_size`` should hold the whole run, or a
    dataset's worth.

    :param online_fraction: share of every batch from the online buffer alone, of which all is drawn, in [0, 1]; 0.1 in
        the official code
    :param dataset: see :class:`_DatasetCallback`
    :raises ValueError: for a number out of range, or an online buffer larger than the dataset whose newest transitions
        cannot be drawn
    """

    needs_replay_buffer = True
    exclusive = (MIXTURE,)
    search_space: ClassVar[SearchSpace] = {"online_fraction": Range(0.05, 0.5)}

    @checked
    def __init__(self, online_fraction: Fraction = 0.1, dataset: AnyDataset = None):
        super().__init__(dataset)
        self.online_fraction = online_fraction
        self.begin_new_run()

    def begin_new_run(self) -> None:
        """See :meth:`FineTuningCallback.begin_new_run`."""
        super().begin_new_run()
        self.order_seed: int | None = None
        self._order: np.ndarray | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_order": None}  # the seed says it

    def _on_training_start(self) -> None:
        super()._on_training_start()
        online: Any = self.model.replay_buffer
        if online.buffer_size * online.n_envs > self._open().size():
            check_drawn_by_place(online, "FIFOReplay", "or buffer_size no larger than the dataset")

    def sample(self, batch_size: int) -> ReplaySamples | None:
        """
        :param batch_size: number of transitions
        :return: transitions of both buffers, spread evenly
        """
        model: Any = self.model
        buffer, env = self._open(), model.get_vec_normalize_env()
        n_kept, capacity = self.n_kept, buffer.size()
        n_online = round(batch_size * self.online_fraction)
        if model.replay_buffer.size() * model.replay_buffer.n_envs > capacity and n_online < batch_size:
            newest = samples_at(model.replay_buffer, *self._newest(batch_size - n_online), env)
            if n_online == 0:
                return newest
            return concatenate_samples(
                model.replay_buffer.sample(n_online, env=env), newest, model.gamma, interleave=True
            )
        n_online += int(buffer.rng.binomial(batch_size - n_online, 1 - n_kept / capacity))
        if n_online == batch_size:
            return None
        rows = buffer.rng.integers(capacity - n_kept, capacity, size=batch_size - n_online)
        offline = buffer._get_samples(self._shuffled(buffer)[rows], env)
        if n_online == 0:
            return offline
        online = model.replay_buffer.sample(n_online, env=env)
        return concatenate_samples(online, offline, model.gamma, interleave=True)

    def _newest(self, n: int) -> tuple[np.ndarray, np.ndarray]:
        """
        :param n: transitions to draw
        :return: rows and columns of as many of the newest online transitions as the dataset has, ``(n,)`` each
        """
        online: Any = self.model.replay_buffer
        buffer = self._open()
        share, rest = divmod(buffer.size(), online.n_envs)
        unfinished = unfinished_steps(online)
        # of each environment, those whose return is known; the last environment's transition of a step is the newest
        counts = np.minimum(online.size() - unfinished, share + (np.arange(online.n_envs)[::-1] < rest))
        if counts.sum() == 0:
            raise ValueError("FIFOReplay: no episode has ended yet, so no return is known: warm up for longer.")
        ends = np.cumsum(counts)
        drawn = buffer.rng.integers(ends[-1], size=n)
        columns = np.searchsorted(ends, drawn, side="right")
        age = 1 + drawn - (ends - counts)[columns] + unfinished[columns]
        return (online.pos - age) % online.buffer_size, columns

    @property
    def n_kept(self) -> int:
        """Transitions of the dataset that have not been pushed out yet."""
        online: Any = self.model.replay_buffer
        return max(self._open().size() - online.size() * online.n_envs, 0)

    def _shuffled(self, buffer: OfflineReplayBuffer) -> np.ndarray:
        """:return: the dataset's rows in the order in which they are pushed out, ``(capacity,)``"""
        if self.order_seed is None:
            self.order_seed = int(buffer.rng.integers(2**31))
        if self._order is None or len(self._order) != buffer.size():
            self._order = np.random.default_rng(self.order_seed).permutation(buffer.size())
        return self._order


def check_drawn_by_place(buffer: ReplayBuffer, who: str, way_out: str = "") -> None:
    """
    :param buffer: of online transitions
    :param who: draws them by row and column, for the error message
    :param way_out: what else would do, likewise
    :raises ValueError: where that would not be what the buffer draws itself
    """
    way_out = way_out and f", {way_out}"
    if isinstance(buffer, HerReplayBuffer | MixedReplayBuffer | OfflineReplayBuffer):
        raise ValueError(f"{who} draws from a plain replay buffer{way_out}, not from {type(buffer).__name__}.")
    if buffer.optimize_memory_usage:
        raise ValueError(f"{who} needs optimize_memory_usage=False{way_out}: it draws transitions one by one.")


_Mode = Annotated[
    str,
    one_of("all", "part", "rows")
    | kind(
        "'none' (for half-and-half batches use SymmetricReplay)",
        lambda value: isinstance(value, str) and value == "none",
    ),
]


class DatasetReplay(_DatasetCallback):
    """
    How the online buffer starts (OCR-CFT, table 6; OPT and CORL load everything).

    :param mode: ``"all"`` loads the whole dataset into the online buffer, ``"part"`` the ``n_trajectories`` with
        the highest returns, ``"rows"`` some transitions at random (WSRL, appendix K, in place of a warm-up), ``"none"``
        nothing
    :param n_trajectories: episodes loaded by ``"part"``
    :param n_transitions: transitions loaded by ``"rows"``, without replacement; beside :class:`SymmetricReplay` too
    :param dataset: see :class:`_DatasetCallback`
    """

    needs_replay_buffer = True

    @property
    def exclusive(self) -> tuple[str, ...]:  # type: ignore[override]
        """See :attr:`FineTuningCallback.exclusive`."""
        return () if self.mode in ("none", "rows") else (MIXTURE,)

    search_space: ClassVar[SearchSpace] = {"mode": Choice(("all", "none"))}

    @checked
    def __init__(
        self,
        mode: _Mode = "all",
        n_trajectories: Count = 50,
        n_transitions: Count = 5000,
        dataset: AnyDataset = None,
    ):
        super().__init__(dataset)
        self.mode = mode
        self.n_trajectories = n_trajectories
        self.n_transitions = n_transitions
        self.begin_new_run()

    def begin_new_run(self) -> None:
        """See :meth:`FineTuningCallback.begin_new_run`."""
        super().begin_new_run()
        self.loaded = False

    def drawn_from(self, dataset: Any) -> Any:
        """See :meth:`FineTuningCallback.drawn_from`."""
        return None if self.mode == "none" else super().drawn_from(dataset)

    def _on_training_start(self) -> None:
        # a model that was loaded without its buffer has an empty one again
        if self.mode == "none" or (self.loaded and self.model.replay_buffer.size() > 0):
            return
        buffer = self._open()
        dataset = buffer.dataset
        if self.mode == "part":
            dataset = _best_episodes(dataset, self.n_trajectories)
        elif self.mode == "rows":
            rows = buffer.rng.permutation(len(dataset))[: self.n_transitions]
            dataset = dataset.subset(indices=np.sort(rows))
        self.model.fill_replay_buffer(dataset)  # type: ignore[attr-defined]
        self.buffer, self.loaded = None, True


def _best_episodes(dataset: OfflineDataset, n_episodes: int) -> OfflineDataset:
    """
    :param dataset: transitions
    :param n_episodes: episodes to keep, those with the highest undiscounted returns
    :return: these episodes
    """
    best = np.sort(np.argsort(-dataset.episode_returns)[:n_episodes])
    starts, ends = dataset.episode_starts, dataset.episode_ends
    return dataset.subset(indices=np.concatenate([np.arange(starts[episode], ends[episode]) for episode in best]))

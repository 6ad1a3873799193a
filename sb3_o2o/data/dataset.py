"""The dataset that everything offline starts from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.buffers import ReplayBuffer

from sb3_o2o.checked import checked
from sb3_o2o.data import cache as dataset_cache
from sb3_o2o.data import compatibility, selection, statistics
from sb3_o2o.data.checks import LARGEST
from sb3_o2o.data.episodes import Episodes
from sb3_o2o.data.formats.arrays import write_npz
from sb3_o2o.data.formats.reading import READING_OPTIONS, Reading
from sb3_o2o.data.rewards import scaled_rewards, unscaled_rewards
from sb3_o2o.data.sources import Dataset, naming, open_source
from sb3_o2o.data.transitions import Source, Transitions
from sb3_o2o.errors import warn
from sb3_o2o.kinds import ARRAY, NOTHING, ROWS, NotZero, Numbers, Share, instance

#: Log-probabilities of a squashed Gaussian stay finite with this; the value of CORL and of WSRL's official code.
ACTION_CLIP = 1.0 - 1e-5
#: options that a dataset is opened again with
_REMEMBERED = {
    *(*READING_OPTIONS, "action_clip", "cut_at_success", "fraction", "top_return_fraction"),
    *("reward_scale", "reward_shift"),
}

_OBSERVATIONS = ARRAY | instance("a dictionary of arrays", Mapping)


@dataclass(frozen=True)
class DatasetReference:
    """
    What is stored of a dataset in place of its data: how to open it again, and how to know that it is the same.

    :param source: id, path or description
    :param options: arguments for ``OfflineDataset.load``
    :param reopenable: whether it can be opened by these
    :param observation_space: of the observations, after any adaptation
    :param action_space: of the actions
    :param fingerprint: of the content
    """

    source: str
    options: dict[str, Any]
    reopenable: bool
    observation_space: spaces.Space
    action_space: spaces.Box
    fingerprint: str

    def open(self) -> "OfflineDataset":
        """
        :return: the dataset
        :raises ValueError: if it is not the same any more, or if it came from memory
        """
        if not self.reopenable:
            raise ValueError(
                f"The dataset {self.source!r} was not saved, only its name, and it cannot be opened by that. "
                "Give it back: buffer.dataset = dataset."
            )
        strange = self.options.keys() - _REMEMBERED
        if strange:  # who made a file up must not choose folders to write to, nor what is trusted
            raise ValueError(f"A dataset is not opened again with {', '.join(sorted(strange))}.")
        dataset = OfflineDataset.load(
            self.source, observation_space=self.observation_space, action_space=self.action_space, **self.options
        )
        if dataset.fingerprint != self.fingerprint:
            raise ValueError(
                f"The dataset {self.source!r} has changed since it was saved (fingerprint {dataset.fingerprint}, was "
                f"{self.fingerprint}). Restore it, or use the new one: buffer.dataset = OfflineDataset.load(...)."
            )
        return dataset


class OfflineDataset(Episodes):
    """
    N recorded transitions in E episodes, checked once, then immutable. Make one with ``OfflineDataset.load``.

    Observations are stored once per step, with one more row per episode; they may lie in a file that is mapped into
    memory. ``observations`` and ``next_observations`` are gathered on each access: use ``get`` for a part of them.
    Methods that change something return another dataset that shares all that did not change.

    :param transitions: what was read
    :param observation_space: ``Box`` or flat ``Dict`` of ``Box``, of the observations as stored
    :param action_space: the bounds by which the actions were scaled to [-1, 1]
    :param source: id, path or description of the origin
    :param options: arguments with which ``OfflineDataset.load(source, **options)`` gives this again; plain types
    :param reopenable: whether it does (not for data from memory, nor after ``subset(indices=...)``)
    :param env_id: Gymnasium id of the environment, if it is known
    :param ref_min_score: return of a random policy, if it is known
    :param ref_max_score: return of an expert, if it is known
    :param episode_ends: how terminations were told from time limits, one line for people
    :param reward_scale: that the environment's rewards were multiplied by, here or before they were saved
    :param reward_shift: that was added after that
    """

    @checked
    def __init__(
        self,
        transitions: Transitions,
        observation_space: spaces.Space,
        action_space: spaces.Box,
        *,
        source: str,
        options: Mapping[str, Any] | None = None,
        reopenable: bool = False,
        env_id: str | None = None,
        ref_min_score: float | None = None,
        ref_max_score: float | None = None,
        episode_ends: str = "not known",
        reward_scale: NotZero = 1.0,
        reward_shift: float = 0.0,
    ) -> None:
        super().__init__(transitions)
        self.observation_space = observation_space
        self.action_space = action_space
        self.source = source
        self.options = dict(options or {})
        self.reopenable = reopenable
        self.env_id = env_id
        self.ref_min_score = ref_min_score
        self.ref_max_score = ref_max_score
        self.episode_end_rule = episode_ends
        self.reward_scale, self.reward_shift = reward_scale, reward_shift

    # ------------------------------------------------------------------------------------------------- opening

    @classmethod
    @checked
    def load(
        cls,
        source: Dataset,
        *,
        observation_space: spaces.Space | None = None,
        action_space: spaces.Space | None = None,
        columns: Mapping[str, Any] | None = None,
        observation_keys: str | Sequence[str] | None = None,
        reward: float | None = None,
        dones: Literal["terminations", "truncations"] | None = None,
        cut_at_success: bool | float = False,
        fraction: Share | None = None,
        top_return_fraction: Share | None = None,
        reward_scale: NotZero = 1.0,
        reward_shift: float = 0.0,
        action_clip: Share | None = None,
        cache: bool | str | Path = True,
        trust: bool = False,
    ) -> "OfflineDataset":
        """
        Open a source, check all of it, and apply the options in the order in which they are listed here.

        :param source: a Minari id, folder or dataset; an ``.hdf5`` or ``.h5`` of D4RL, robomimic or d3rlpy (1, 2); an
            ``.npz`` of arrays, OGBench or imitation, or one that ``save`` wrote; a table ``.csv`` or ``.parquet``; a
            folder of LeRobot (version 3) or imitation; an SB3 replay buffer, live or as a ``.pkl``; a dictionary of
            arrays or torch tensors; a list of such dictionaries, one for each episode, with T or T + 1 observations; a
            list of imitation's trajectories; or an ``OfflineDataset``
        :param observation_space: the environment's; must match the source's, and stands in for it if it has none.
            Channel-first images (as SB3's environments have them) also match a source with channel-last ones
        :param action_space: the environment's, likewise; its bounds scale the actions. Without any, [-1, 1] is assumed
        :param columns: of a table: which make which field, such as ``{"observations": ["x", "v"], "actions": ["u"],
            "rewards": "r", "terminations": "end", "episode": "trial"}``. Fields that are not named here are found by
            their own names, or as ``observations_0``, ``observations_1``, ...
        :param observation_keys: of several observations (robomimic, LeRobot, dictionaries): which to take; one name, or
            a list of vectors to put side by side in this order (a dictionary of them, if the environment has one). All
            of them by default, as a dictionary
        :param reward: the reward of every transition, for demonstrations without any
        :param dones: "terminations" or "truncations": what a ``done`` is, where the source does not tell these apart.
            None takes them as terminations, with a warning
        :param cut_at_success: end each episode at its first positive reward, with a termination, where rewards have two
            values; a number instead of True ends it at the first reward of at least that, whatever the rewards are
        :param fraction: keep the first episodes, until this fraction of the transitions is reached, in (0, 1]
        :param top_return_fraction: keep the episodes of highest undiscounted return, likewise (%BC, Chen et al. 2021)
        :param reward_scale: multiplies the rewards
        :param reward_shift: is added after that, so Cal-QL's AntMaze is ``reward_scale=10, reward_shift=-5``
        :param action_clip: largest absolute value of a scaled action, in (0, 1]; None for 1 - 1e-5
        :param cache: whether to keep (or find) Minari and HDF5 data converted on disk, mapped into memory: True for
            ``$SB3_O2O_CACHE`` or ``~/.cache/sb3_o2o``, a path for another folder, False for not at all
        :param trust: open a ``.pkl`` that may run any code. Without it only arrays, plain values and buffers are made
        :return: the dataset
        :raises UntrustedError: if a ``.pkl`` holds anything else, without ``trust=True``
        :raises ValueError: naming the field, the first bad index and what was found, if anything is wrong
        :raises FileNotFoundError: if there is no such source
        :raises ImportError: naming the extra to install, if the source needs one
        """
        reading = Reading(observation_space, action_space, columns, observation_keys, reward, dones, trust)
        if isinstance(source, ReplayBuffer):  # one on a dataset, perhaps
            held = getattr(source, "dataset", None)
            source = held if isinstance(held, OfflineDataset) else source
        if isinstance(source, OfflineDataset):
            dataset = source
            for name, value in reading.given.items():
                if dataset.options.get(name) != value:
                    raise ValueError(f"{name} is about how a source is read: {dataset.source!r} has been read already.")
            clipped_at = dataset.options.get("action_clip", ACTION_CLIP)
            if action_clip not in (None, clipped_at):
                raise ValueError(f"The actions have been clipped at {clipped_at}, not at action_clip={action_clip}.")
        else:
            with naming(source):
                opened = open_source(source, reading)
                dataset = cls._from_source(opened, ACTION_CLIP if action_clip is None else action_clip, cache)
        if observation_space is not None or action_space is not None:
            dataset = dataset.adapted_to(
                observation_space or dataset.observation_space, action_space or dataset.action_space
            )
        if cut_at_success is not False:
            dataset = dataset.cut_at_success(None if cut_at_success is True else cut_at_success)
        if fraction is not None:
            dataset = dataset.subset(fraction=fraction)
        if top_return_fraction is not None:
            dataset = dataset.subset(top_return_fraction=top_return_fraction)
        if reward_scale != 1.0 or reward_shift != 0.0:
            dataset = dataset.with_rewards(reward_scale, reward_shift)
        return dataset

    @classmethod
    @checked
    def from_arrays(
        cls,
        observations: Annotated[Any, _OBSERVATIONS],
        actions: Annotated[Any, ARRAY],
        rewards: Annotated[Any, ARRAY],
        next_observations: Annotated[Any, _OBSERVATIONS],
        terminations: Annotated[Any, ARRAY],
        truncations: Annotated[Any, ARRAY | NOTHING] = None,
        **options: Any,
    ) -> "OfflineDataset":
        """
        Make a dataset from arrays, copying them.

        :param observations: ``(N, *obs_shape)``, or a dictionary of such, in recorded order
        :param actions: in the environment's units, ``(N, *action_shape)``
        :param rewards: ``(N,)``
        :param next_observations: as ``observations``
        :param terminations: ``(N,)`` bool
        :param truncations: ``(N,)`` bool; None if there are none. Where a next observation is not the observation of
            the following transition, the episode counts as truncated anyway
        :param options: those of ``load``
        :return: the dataset
        :raises ValueError: as ``load``
        """
        fields = {
            "observations": observations,
            "actions": actions,
            "rewards": rewards,
            "next_observations": next_observations,
            "terminations": terminations,
        }
        return cls.load(fields if truncations is None else {**fields, "truncations": truncations}, **options)

    @classmethod
    def _from_source(cls, source: Source, action_clip: float, cache: bool | str | Path) -> "OfflineDataset":
        key = source.cache_key
        if key is not None:
            low, high = source.action_space.low.tolist(), source.action_space.high.tolist()
            key = {**key, "action_clip": action_clip, "low": low, "high": high}
        return cls(
            dataset_cache.convert(lambda: source.chunks(action_clip), key, cache),
            source.observation_space,
            source.action_space,
            source=source.name,
            options={**source.options, **({} if action_clip == ACTION_CLIP else {"action_clip": action_clip})},
            reopenable=source.on_disk,
            env_id=source.env_id,
            ref_min_score=source.ref_min_score,
            ref_max_score=source.ref_max_score,
            episode_ends=source.episode_ends,
            reward_scale=source.reward_scale,
            reward_shift=source.reward_shift,
        )

    # ------------------------------------------------------------------------------------------------- reading

    def __repr__(self) -> str:
        return f"OfflineDataset({self.source!r}, {len(self)} transitions, {len(self.episode_starts)} episodes)"

    @property
    def reference(self) -> DatasetReference:
        """How to open this again; what is pickled in place of the data if it can be."""
        return DatasetReference(
            self.source, self.options, self.reopenable, self.observation_space, self.action_space, self.fingerprint
        )

    def __reduce_ex__(self, protocol: Any) -> Any:
        # A dataset inside of a saved model must not carry gigabytes along
        return (DatasetReference.open, (self.reference,)) if self.reopenable else super().__reduce_ex__(protocol)

    def __deepcopy__(self, memo: dict[int, Any]) -> "OfflineDataset":
        copied = type(self).__new__(type(self))
        copied.__dict__.update(self.__dict__)  # transitions are never written to
        memo[id(self)] = copied
        return copied

    @checked
    def save(self, path: str | Path) -> None:
        """
        Write an ``.npz`` that ``load`` reads back as it is now: a small dataset in one file.

        :param path: file to write, ending in ``.npz``; its folder must exist
        :raises ValueError: if it ends in something else
        """
        if Path(path).suffix != ".npz":
            raise ValueError(f"Cannot save a dataset as {path}: the name must end in .npz.")
        names = ("env_id", "ref_min_score", "ref_max_score", "reward_scale", "reward_shift")
        known = {**{name: getattr(self, name) for name in names}, "episode_ends": self.episode_end_rule}
        write_npz(Path(path), self._transitions, self.observation_space, self.action_space, **known)

    @checked
    def check_compatible(self, observation_space: spaces.Space, action_space: spaces.Space) -> None:
        """
        :param observation_space: the environment's; keys and shapes must be those of the data. Bounds and dtype may
            differ, as they do between a dataset's metadata and its environment
        :param action_space: the environment's; the bounds must be those by which the actions were scaled
        :raises ValueError: naming both, if something does not match
        """
        compatibility.check_observation_spaces(self.observation_space, observation_space, self.source)
        compatibility.check_action_spaces(self.action_space, action_space, self.source)

    @checked
    def adapted_to(self, observation_space: spaces.Space, action_space: spaces.Space) -> "OfflineDataset":
        """
        Like ``check_compatible``, but if the environment has channel-first images (SB3 transposes them) and the data
        have channel-last ones, the result has its axes exchanged, without a copy.

        :param observation_space: the environment's
        :param action_space: the environment's
        :return: this dataset, or one with channel-first images
        :raises ValueError: naming both spaces, if something does not match
        """
        rows, space = compatibility.channels_first(self._rows, self.observation_space, observation_space)
        dataset = self
        if space is not self.observation_space:
            dataset = self._derived(self.options, self.reopenable, rows=rows, observation_space=space)
        dataset.check_compatible(observation_space, action_space)
        return dataset

    @checked
    def summary(self, print_table: bool = True) -> dict[str, Any]:
        """
        Describe the dataset in numbers: episodes, returns, lengths, rewards, score; and how the ends of episodes were
        told apart.

        :param print_table: whether to print them as a table
        :return: the numbers by name, such as ``episodes``, ``return_mean``, ``length_max``, ``score_mean``, and
            ``episode_ends``, a line of text
        """
        numbers = {**statistics.describe(self), "episode_ends": self.episode_end_rule}
        known = self.ref_min_score is not None and self.ref_max_score is not None
        if known and (self.reward_scale, self.reward_shift) == (1.0, 0.0):  # scores are of the environment's rewards
            numbers["score_mean"] = float(self.normalized_score(numbers["return_mean"]))
        if print_table:
            statistics.print_table(numbers, self.source, self.env_id, (self.observation_space, self.action_space))
        return numbers

    @checked
    def normalized_score(self, ret: Numbers) -> Any:
        """
        Place a return on the scale on which a random policy has 0 and an expert 100 (D4RL's).

        :param ret: undiscounted return of the environment's own rewards, a number or an array
        :return: the score, of the same shape
        :raises ValueError: if the dataset does not say which returns these are
        """
        if self.ref_min_score is None or self.ref_max_score is None:
            raise ValueError(
                f"Dataset {self.source!r} has no reference scores. Set its ref_min_score and ref_max_score to the "
                "returns of a random policy and of an expert in its environment, or report raw returns."
            )
        return 100.0 * (np.asarray(ret) - self.ref_min_score) / (self.ref_max_score - self.ref_min_score)

    # ------------------------------------------------------------------------------------------------- deriving

    @checked
    def with_rewards(self, scale: NotZero = 1.0, shift: float = 0.0) -> "OfflineDataset":
        """
        :param scale: multiplies the rewards
        :param shift: is added after that
        :return: the same transitions with other rewards
        :raises ValueError: if a number is not finite, the scale is zero, or a reward is too large with them
        """
        rewards = scaled_rewards(self.rewards, scale, shift)
        too_large = np.flatnonzero(~(np.abs(rewards) <= LARGEST))
        if len(too_large):
            first = int(too_large[0])
            raise ValueError(
                f"rewards[{first}] is {self.rewards[first]}, and {rewards[first]} with scale {scale} and shift {shift}:"
                f" expected at most {LARGEST:g}. So it is in {len(too_large)} of {len(self)} transitions: scale less."
            )
        options = {**self.options, "reward_scale": float(scale), "reward_shift": float(shift)}
        total = {"reward_scale": scale * self.reward_scale, "reward_shift": scale * self.reward_shift + shift}
        return self._derived(options, self._reopens_after("reward_scale"), rewards=rewards, **total)

    def with_raw_rewards(self) -> "OfflineDataset":
        """
        Undo the scale of the rewards: scores, and what is compared with episodes of the environment, are of its own.

        :return: this dataset, or one whose rewards are the environment's up to a rounding
        """
        if (self.reward_scale, self.reward_shift) == (1.0, 0.0):
            return self
        rewards = unscaled_rewards(self.rewards, self.reward_scale, self.reward_shift)
        options = {name: value for name, value in self.options.items() if name not in ("reward_scale", "reward_shift")}
        return self._derived(options, reopenable=False, rewards=rewards, reward_scale=1.0, reward_shift=0.0)

    @checked
    def subset(
        self,
        indices: Annotated[Any, ROWS | NOTHING] = None,
        *,
        fraction: Share | None = None,
        top_return_fraction: Share | None = None,
    ) -> "OfflineDataset":
        """
        Keep a part, in recorded order. Give one of the arguments.

        :param indices: transitions to keep: integers in [0, N), each once, or a mask ``(N,)``. Where the next one is
            left out, an episode is truncated
        :param fraction: keep the first episodes, until this fraction of the transitions is reached, in (0, 1]
        :param top_return_fraction: keep the episodes of highest return, until this fraction is reached, in (0, 1]; of
            equal returns, the earlier episode
        :return: a dataset that shares the observations
        :raises ValueError: if not exactly one argument is given, or one is out of range
        """
        given = {"indices": indices, "fraction": fraction, "top_return_fraction": top_return_fraction}
        if sum(value is not None for value in given.values()) != 1:
            raise ValueError("subset needs exactly one of indices, fraction and top_return_fraction.")
        if indices is not None:
            return self._keep(selection.checked_indices(indices, len(self)), self.options, reopenable=False)
        name, part, order = "fraction", fraction, None
        if top_return_fraction is not None:
            name, part = "top_return_fraction", top_return_fraction
            order = np.argsort(-self.episode_returns, kind="stable")
        assert part is not None
        kept = selection.first_episodes(self.episode_lengths, part, order)
        return self._keep(kept, {**self.options, name: part}, self._reopens_after(name))

    @checked
    def cut_at_success(self, threshold: float | None = None) -> "OfflineDataset":
        """
        End each episode at its first success, with a termination, and drop what follows. Some datasets go on after
        the goal, which the papers' results do not.

        :param threshold: the first reward of at least this is the success; None: the first positive one, of rewards
            that have two values
        :return: a dataset that shares the observations
        :raises ValueError: without a threshold, if rewards do not tell success from failure
        """
        if threshold is None:
            selection.check_binary(self.rewards, self.source)
        success = self.rewards > 0 if threshold is None else self.rewards >= threshold
        kept = selection.until_success(success, self.episode_starts, self.episode_lengths)
        if len(kept) == len(self.episode_starts) < len(self):
            warn(
                f"cut_at_success={threshold} leaves one transition of each of the {len(kept)} episodes of "
                f"{self.source!r}: each begins with a success by it.",
            )
        options = {**self.options, "cut_at_success": True if threshold is None else float(threshold)}
        ended = success[kept]
        return self._keep(
            kept,
            options,
            self._reopens_after("cut_at_success"),
            terminations=self.terminations[kept] | ended,
            truncations=self.truncations[kept] & ~ended,
        )

    def _reopens_after(self, option: str) -> bool:
        # load applies its options in this order: another order, or the same twice, is something that it cannot repeat
        order = ("cut_at_success", "fraction", "top_return_fraction", "reward_scale", "reward_shift")
        return self.reopenable and not any(name in self.options for name in order[order.index(option) :])

    def _keep(self, kept: np.ndarray, options: dict[str, Any], reopenable: bool, **changed: Any) -> "OfflineDataset":
        fields = {
            "row_index": self._row_index[kept],
            "actions": self.actions[kept],
            "rewards": self.rewards[kept],
            "terminations": self.terminations[kept],
            "truncations": self.truncations[kept],
        }
        return self._derived(options, reopenable, **{**fields, **changed})

    def _derived(self, options: dict[str, Any], reopenable: bool, **changed: Any) -> "OfflineDataset":
        own = ("observation_space", "action_space", "reward_scale", "reward_shift")
        kept = {name: changed.pop(name, getattr(self, name)) for name in own}
        return OfflineDataset(
            Transitions(**{**vars(self._transitions), **changed}),
            **kept,
            source=self.source,
            options=options,
            reopenable=reopenable,
            env_id=self.env_id,
            ref_min_score=self.ref_min_score,
            ref_max_score=self.ref_max_score,
            episode_ends=self.episode_end_rule,
        )

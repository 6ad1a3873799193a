"""What ``VecNormalize`` normalises by: taken from a dataset or from another run, and kept apart from environments."""

from __future__ import annotations

import copy
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from sb3_o2o.data.dataset import OfflineDataset
from sb3_o2o.data.returns import discounted_sums
from sb3_o2o.data.transitions import Observations
from sb3_o2o.errors import warn
from sb3_o2o.plain.pickles import load_pickle

#: running statistics of fewer observations move fast
_FEW = 1000
#: statistics that differ by less mean the same to a network: means in deviations, and the ratio of two deviations
_SAME_MEAN, _SAME_DEVIATION = 0.1, 1.1
_OF_OBSERVATIONS = ("obs_rms", "norm_obs_keys", "clip_obs", "epsilon")
_SETTINGS = ("training", "norm_obs", "norm_reward", "clip_obs", "clip_reward", "gamma", "epsilon", "norm_obs_keys")


@dataclass
class Normalizer:
    """
    Settings and statistics of a ``VecNormalize``, under its own names and without its environment.

    :param settings: arguments of its constructor
    :param obs_rms: statistics of the observations, or of those of each normalised key; None where they are not
        normalised
    :param ret_rms: statistics of the discounted sums of rewards
    """

    settings: dict[str, Any]
    obs_rms: RunningMeanStd | dict[str, RunningMeanStd] | None
    ret_rms: RunningMeanStd

    @classmethod
    def of(cls, env: VecNormalize | None) -> Normalizer | None:
        """
        :param env: a normalising environment, or none
        :return: what it normalises by now, a copy
        """
        if env is None:
            return None
        settings = {name: copy.deepcopy(getattr(env, name)) for name in _SETTINGS}
        return cls(settings, copy.deepcopy(env.obs_rms) if env.norm_obs else None, copy.deepcopy(env.ret_rms))

    @classmethod
    def read(cls, source: Any, trust: bool = False) -> Normalizer:
        """
        :param source: a ``VecNormalize``, or what its ``save`` wrote (RL Zoo's ``vecnormalize.pkl``)
        :param trust: whether a file may run any code
        :return: what it normalises by
        :raises UntrustedError: if a file needs that, and there is no trust
        :raises ValueError: if the file holds something else
        :raises FileNotFoundError: if there is no such file
        """
        opened = load_pickle(Path(source), trust) if isinstance(source, str | os.PathLike) else source
        found = opened if isinstance(opened, Normalizer) else None
        if isinstance(opened, VecNormalize):
            needed = (*_SETTINGS, "ret_rms", *(("obs_rms",) if vars(opened).get("norm_obs", True) else ()))
            missing = [name for name in needed if name not in vars(opened)]
            if missing:
                raise ValueError(f"{source} holds a VecNormalize without {', '.join(missing)}: it is damaged.")
            found = cls.of(opened)
        if found is None:
            raise ValueError(
                f"{source} holds a {type(opened).__name__}, expected a VecNormalize or a file that its save wrote."
            )
        return found

    @property
    def by_key(self) -> dict[str, RunningMeanStd]:
        """Statistics of observations by key, the empty one for arrays; empty where they are not normalised."""
        if self.obs_rms is None:
            return {}
        return self.obs_rms if isinstance(self.obs_rms, dict) else {"": self.obs_rms}

    def normalize_obs(self, observations: Observations) -> Observations:
        """
        :param observations: of an environment without normaliser, ``(batch, *obs_shape)`` or a dictionary of such
        :return: as ``VecNormalize`` would give them
        """
        if isinstance(observations, dict):
            seen = {key: self._normalized(observations[key], rms) for key, rms in self.by_key.items()}
            return {**observations, **seen}
        rms = self.by_key.get("")
        return observations if rms is None else self._normalized(observations, rms)

    def _normalized(self, values: np.ndarray, rms: RunningMeanStd) -> np.ndarray:
        clip = self.settings["clip_obs"]
        scaled = (values - rms.mean) / np.sqrt(rms.var + self.settings["epsilon"])
        return np.clip(scaled, -clip, clip).astype(np.float32)

    @property
    def reward_scale(self) -> float:
        """What rewards are multiplied by."""
        if not self.settings["norm_reward"]:
            return 1.0
        return float(1.0 / np.sqrt(self.ret_rms.var + self.settings["epsilon"]))

    def wrap(self, env: VecEnv) -> VecNormalize:
        """
        :param env: an environment without normaliser
        :return: the same behind one like this
        :raises ValueError: if its observations have other keys or shapes
        """
        wrapped = VecNormalize(env, **copy.deepcopy(self.settings))
        self._check_fits(wrapped)
        wrapped.ret_rms = copy.deepcopy(self.ret_rms)
        if self.obs_rms is not None:
            wrapped.obs_rms = copy.deepcopy(self.obs_rms)  # type: ignore[arg-type]
        return wrapped

    def give_to(self, env: VecNormalize) -> list[str]:
        """
        Let an environment normalise as this does, where it has seen nothing yet and does normalise.

        :param env: the environment
        :return: what it was given: ``"observations"``, ``"rewards"``
        :raises ValueError: if its observations have other keys or shapes
        """
        given = []
        if self.obs_rms is not None and env.norm_obs and is_fresh(env):
            self._check_fits(env)
            env.obs_rms = copy.deepcopy(self.obs_rms)  # type: ignore[arg-type]
            for name in _OF_OBSERVATIONS[1:]:
                setattr(env, name, copy.deepcopy(self.settings[name]))
            given.append("observations")
        if self.settings["norm_reward"] and env.norm_reward and _seen_nothing(env.ret_rms):
            env.ret_rms = copy.deepcopy(self.ret_rms)
            given.append("rewards")
        return given

    def _check_fits(self, env: VecNormalize) -> None:
        space: Any = env.observation_space
        shapes = {key: getattr(space[key] if key else space, "shape", None) for key in self.by_key if _has(space, key)}
        wanted = {key: rms.mean.shape for key, rms in self.by_key.items()}
        if shapes != wanted:
            raise ValueError(
                f"These statistics of VecNormalize are of observations with {_names(wanted)}, the environment's are "
                f"{space}: give those of this task."
            )


def is_fresh(env: VecNormalize) -> bool:
    """
    :param env: a normalising environment
    :return: whether it normalises observations and has seen none, nor was given statistics
    """
    normalizer = Normalizer.of(env)
    return normalizer is not None and bool(normalizer.by_key) and all(map(_seen_nothing, normalizer.by_key.values()))


def _seen_nothing(rms: RunningMeanStd) -> bool:
    untouched = RunningMeanStd(shape=rms.mean.shape)
    return bool(rms.count == untouched.count and (rms.mean == 0.0).all() and (rms.var == 1.0).all())


def fit(env: VecNormalize, dataset: OfflineDataset) -> list[str]:
    """
    Let ``VecNormalize`` begin with a dataset's statistics, as if it had been shown the dataset, where it has seen
    nothing yet: neither online nor as statistics that were loaded or set. Its observations count as so many of the
    environment's; the rewards' statistics are those of the discounted sums within each episode. With
    ``training=True`` they move on from there online, slowly because the dataset counts; ``training=False`` keeps them.

    :param env: the environment
    :param dataset: rewards as they are trained on
    :return: what was fitted: ``"observations"``, ``"rewards"``
    :raises ValueError: if the observations have other keys or shapes
    """
    fitted = []
    if is_fresh(env):
        rms: dict[str, RunningMeanStd] = env.obs_rms if isinstance(env.obs_rms, dict) else {"": env.obs_rms}
        moments = dataset.observation_moments([*rms])
        ours, theirs = (
            {key: each.mean.shape for key, each in rms.items()},
            {key: mean.shape for key, (mean, _) in moments.items()},
        )
        if ours != theirs:
            raise ValueError(
                f"VecNormalize has statistics of observations with {_names(ours)}, the dataset {dataset.source!r} has "
                f"{_names(theirs)}: wrap the environment in VecNormalize last, outside of frame stacks."
            )
        for key, each in rms.items():
            each.update_from_moments(*moments[key], len(dataset))
        fitted.append("observations")
    elif env.norm_obs and env.training:
        _warn_of_few(env, dataset)
    if env.norm_reward and _seen_nothing(env.ret_rms):
        env.ret_rms.update(discounted_sums(dataset.rewards, dataset.episode_starts, env.gamma))
        fitted.append("rewards")
    return fitted


def _warn_of_few(env: VecNormalize, dataset: OfflineDataset) -> None:
    normalizer = Normalizer.of(env)
    assert normalizer is not None
    seen = min((rms.count for rms in normalizer.by_key.values()), default=_FEW)
    if seen < min(_FEW, len(dataset)):
        warn(
            f"VecNormalize has seen {round(seen)} observations: the dataset is normalised by these statistics, which "
            "move fast online, so that what is learned now will not fit. Give a new VecNormalize, which is fitted to "
            "the dataset, or the statistics of a whole run.",
        )


def same_observations(one: Normalizer | None, other: Normalizer | None) -> bool:
    """
    :param one: a normaliser, or none
    :param other: another one
    :return: whether a network reads the same behind both, but for what running statistics move in a short while
    """
    ours, theirs = ({} if each is None else each.by_key for each in (one, other))
    if ours.keys() != theirs.keys():
        return False
    for key, rms in ours.items():
        deviations = [np.sqrt(each.var + 1e-8) for each in (rms, theirs[key])]
        ratio = np.maximum(deviations[0] / deviations[1], deviations[1] / deviations[0])
        shift = np.abs(rms.mean - theirs[key].mean) / np.minimum(*deviations)
        if (ratio > _SAME_DEVIATION).any() or (shift > _SAME_MEAN).any():
            return False
    return True


def same_rewards(one: Normalizer | None, other: Normalizer | None) -> bool:
    """
    :param one: a normaliser, or none
    :param other: another one
    :return: whether values of one are values of the other, but for what running statistics move in a short while
    """
    scales = [1.0 if each is None else each.reward_scale for each in (one, other)]
    normalises = [each is not None and each.settings["norm_reward"] for each in (one, other)]
    return normalises[0] == normalises[1] and max(scales) <= _SAME_DEVIATION * min(scales)


def _has(space: Any, key: str) -> bool:
    return not key or key in getattr(space, "spaces", {})


def _names(shapes: dict[str, tuple[int, ...]]) -> str:
    return ", ".join(f"{key} {shape}" if key else f"the shape {shape}" for key, shape in shapes.items()) or "no keys"

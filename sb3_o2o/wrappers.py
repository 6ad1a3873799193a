"""Gymnasium wrappers that make an environment the one that a dataset or a paper's numbers speak of.

All are plain classes with keyword arguments, so RL Zoo's ``env_wrapper:`` takes them by name.
"""

from collections.abc import Mapping, Sequence
from typing import Any, SupportsFloat

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs

from sb3_o2o.checked import checked
from sb3_o2o.evaluation.curve_metrics import SUCCESS_KEYS, is_success
from sb3_o2o.evaluation.scores import ReferenceScore, reference_score
from sb3_o2o.kinds import CountFromZero, NotZero


class RewardScaleShift(gym.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """
    ``reward * scale + shift``, with the raw reward kept in ``info["raw_reward"]``.

    The algorithms of this library scale rewards themselves (``reward_scale``, ``reward_shift``), so that evaluation
    sees raw returns; this wrapper gives stock Stable-Baselines3 algorithms the same rewards. Do not use both.

    :param env: the environment
    :param scale: factor, not 0
    :param shift: added after scaling, in scaled units (Cal-QL's mazes: scale 10, shift -5)
    :raises ValueError: scale is 0 or one of the two is not finite
    """

    @checked
    def __init__(self, env: gym.Env[Any, Any], scale: NotZero = 1.0, shift: float = 0.0):
        RecordConstructorArgs.__init__(self, scale=scale, shift=shift)
        gym.Wrapper.__init__(self, env)
        self.scale = float(scale)
        self.shift = float(shift)

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        scaled = float(reward) * self.scale + self.shift
        return observation, scaled, terminated, truncated, {**info, "raw_reward": float(reward)}


class EndAtSuccess(gym.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """
    Terminates the episode at the first step that reports success.

    Sparse-reward papers (AntMaze, binary Adroit) mean "reach the goal", while Gymnasium-Robotics' environments may go
    on and pay again. It also sets ``info["is_success"]`` at every step, the key that Stable-Baselines3 counts.

    :param env: the environment
    :param success_keys: names in ``info`` under which success is looked for
    """

    @checked
    def __init__(self, env: gym.Env[Any, Any], success_keys: Sequence[str] = SUCCESS_KEYS):
        RecordConstructorArgs.__init__(self, success_keys=success_keys)
        gym.Wrapper.__init__(self, env)
        if isinstance(success_keys, str) or not success_keys:
            raise ValueError(f"success_keys must be a non-empty list of names, got {success_keys!r}.")
        self.success_keys = tuple(success_keys)

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        success = bool(is_success(info, self.success_keys))
        return observation, reward, bool(terminated) or success, truncated, {**info, "is_success": success}


class FlattenGoalObservation(gym.ObservationWrapper[Any, Any, Any], RecordConstructorArgs):
    """
    A dictionary observation (nested or not) as one float32 vector, in a fixed order.

    The papers' mazes and kitchen use flat vectors. A dataset recorded with dictionaries must be flattened in the same
    order: :func:`flatten_observations` does that for arrays of any leading shape.

    :param env: an environment with a ``Dict`` observation space of ``Box`` leaves
    :param keys: top-level entries to keep, in the vector's order; default: all, sorted by name as Gymnasium does
    :raises ValueError: the observations are not a dictionary, a key is unknown, or a leaf is not a Box
    """

    @checked
    def __init__(self, env: gym.Env[Any, Any], keys: Sequence[str] | None = None):
        RecordConstructorArgs.__init__(self, keys=keys)
        gym.ObservationWrapper.__init__(self, env)
        space = env.observation_space
        if not isinstance(space, spaces.Dict):
            raise ValueError(f"FlattenGoalObservation needs dictionary observations, got {space}.")
        missing = [key for key in keys or () if key not in space.spaces]
        if missing:
            raise ValueError(f"No observation is named {missing[0]!r}; this environment has {sorted(space.spaces)}.")
        self.keys = tuple(keys) if keys else tuple(sorted(space.spaces))
        leaves = [leaf for key in self.keys for leaf in _box_leaves(space.spaces[key], key)]
        low, high = (
            np.concatenate([np.asarray(getattr(leaf, side), dtype=np.float32).ravel() for leaf in leaves])
            for side in ("low", "high")
        )
        self.observation_space = spaces.Box(low, high, dtype=np.float32)

    def observation(self, observation: Mapping[str, Any]) -> np.ndarray:
        return flatten_observations(observation, self.keys)


def _box_leaves(space: spaces.Space[Any], path: str) -> list[spaces.Box]:
    """The Box leaves below a space, sorted by name at every level."""
    if isinstance(space, spaces.Box):
        return [space]
    if isinstance(space, spaces.Dict):
        return [leaf for key in sorted(space.spaces) for leaf in _box_leaves(space.spaces[key], f"{path}.{key}")]
    raise ValueError(f"Only Box observations can be flattened, but {path!r} is {space}.")


@checked
def flatten_observations(
    observations: Mapping[str, Any], keys: Sequence[str], *, batch_dimensions: CountFromZero = 0
) -> np.ndarray:
    """
    The arrays of a (nested) dictionary side by side, in the order of :class:`FlattenGoalObservation`.

    :param observations: dictionary of arrays (or of dictionaries), each of shape ``(*batch, *entry)``
    :param keys: top-level entries in the wanted order; below them, names are sorted
    :param batch_dimensions: leading axes to keep: 0 for one observation, 1 for the rows of a dataset
    :return: float32 array of shape ``(*batch, total size)``
    """
    parts: list[np.ndarray] = []

    def walk(value: Any) -> None:
        if isinstance(value, Mapping):
            for name in sorted(value):
                walk(value[name])
        else:
            array = np.asarray(value, dtype=np.float32)
            parts.append(array.reshape(*array.shape[:batch_dimensions], -1))

    for key in keys:
        walk(observations[key])
    return np.concatenate(parts, axis=-1)


class NormalizedScore(gym.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """
    Puts ``info["normalized_score"]`` (0 random, 100 expert) into the last step of every episode.

    Wrap the raw environment with it, below any reward scaling: the score is of undiscounted, unscaled returns.

    :param env: the environment
    :param minimum: return of the random reference; default: the table's, by the environment's id
    :param maximum: return of the expert reference; default: the table's
    :raises ValueError: no reference is known for this environment and none was given
    """

    @checked
    def __init__(self, env: gym.Env[Any, Any], minimum: float | None = None, maximum: float | None = None):
        RecordConstructorArgs.__init__(self, minimum=minimum, maximum=maximum)
        gym.Wrapper.__init__(self, env)
        self.reference = self._reference(minimum, maximum)
        self._episode_return = 0.0

    def _reference(self, minimum: float | None, maximum: float | None) -> ReferenceScore:
        if minimum is not None and maximum is not None:
            return ReferenceScore(minimum, maximum, "given by the caller")
        env_id = self.env.spec.id if self.env.spec is not None else None
        known = reference_score(env_id)
        if known is None or minimum is not None or maximum is not None:
            raise ValueError(
                f"NormalizedScore knows no complete reference for {env_id!r}: give both minimum= and maximum= "
                "(undiscounted returns of a random and of an expert policy)."
            )
        return known

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        self._episode_return = 0.0
        return self.env.reset(seed=seed, options=options)

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        self._episode_return += float(reward)
        if terminated or truncated:
            info = {**info, "normalized_score": float(self.reference.normalize(self._episode_return))}
        return observation, reward, terminated, truncated, info

"""Residual policies: a frozen policy of any kind acts, and an agent learns to correct it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Annotated, Any, ClassVar

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from sb3_o2o.checked import checked
from sb3_o2o.data.transitions import map_observations
from sb3_o2o.kinds import ENVIRONMENT, FUNCTION, PATH, Share, kind
from sb3_o2o.transfer.acting import Acting, check_known, has_predict
from sb3_o2o.transfer.archive import saved_family, saved_model_path
from sb3_o2o.transfer.foreign import open_saved, unknown_family
from sb3_o2o.transfer.options import STATISTICS
from sb3_o2o.transfer.seeing import Seen
from sb3_o2o.transfer.spaces import check_spaces

#: where the base's action is in observations that are dictionaries
BASE_ACTION = "base_action"
_PREDICTS = kind("an object with predict", lambda value: not isinstance(value, type) and has_predict(value))
Base = Annotated[
    str | os.PathLike[str] | BaseAlgorithm | BasePolicy | Callable[[Any], Any],
    kind("the path of a saved model, a model, a policy", PATH.accepts) | _PREDICTS | FUNCTION,
]
Statistics = Annotated[VecNormalize | str | os.PathLike[str] | bool | None, STATISTICS]
Environments = Annotated[gym.Env[Any, Any] | VecEnv, ENVIRONMENT]


def executed_actions(base: np.ndarray, residual: np.ndarray, scale: float) -> np.ndarray:
    """
    ``clip(base + scale * residual, -1, 1)``, on the scale on which the space of actions is [-1, 1].

    :param base: actions of the base policy, ``(..., act)``
    :param residual: of the agent, as ``base``; outside [-1, 1] it is clipped first, so that no dimension moves by more
        than ``scale``
    :param scale: half the range of an action, times this, is the largest correction
    :return: what the environment gets
    """
    return np.clip(base + scale * np.clip(residual, -1.0, 1.0), -1.0, 1.0)


class ResidualActions(gym.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """
    An environment in which the agent corrects a frozen base policy (residual reinforcement learning: Silver et al.
    2018, arXiv:1812.06298; Ma et al. 2026, arXiv:2602.10539; Ankile et al. 2025, arXiv:2509.19301). The agent's actions
    are in [-1, 1], and the environment is given::

        a = clip(a_base + scale * a_residual, -1, 1)        scaled back to the environment's bounds

    So an agent that does nothing is the base policy, and no dimension is ever further from it than ``scale``. Any
    algorithm can be the agent, of this library or stock. Its critics see (observation, base action, residual): the
    base's action is part of the observation, as its last entries where that is a vector, under ``"base_action"`` where
    it is a dictionary; other observations become one, with ``"observation"``. What is executed follows from these,
    whether the base samples or has a memory (of which the agent sees nothing but the present action). A model that was
    trained here is refused in the bare environment, whose observations have another shape; :class:`ResidualPolicy` acts
    there.

    ``info["executed_action"]`` is what the environment got. The base acts by its mode, and draws nothing.

    :param env: the environment, with bounded actions
    :param base: the path of a saved model of this library, Stable-Baselines3 or sb3-contrib; a live model or policy;
        another object with SB3's ``predict``, which may have a memory, and take ``reward``, that of the step before; or
        a ``torch.nn.Module`` or function of a batch of observations, ``(1, *obs)``, that returns actions within the
        environment's bounds, ``(1, *act)``
    :param scale: largest correction of each dimension, as a share of half the range of an action, in (0, 1]
    :param vec_normalize: by which statistics the base saw observations, see ``load_offline``; by default a saved
        model's own
    :raises ValueError: if the base cannot act here, or actions are not bounded
    :raises UntrustedError: if a file holds classes that are not on the list of ``docs/safety.md``: open it yourself,
        with ``trust=True``, and give the live model
    """

    #: the policy is no state of the environment: who makes it again has to give it again
    not_in_bundles: ClassVar[tuple[str, ...]] = ("_predict",)

    @checked
    def __init__(
        self,
        env: gym.Env[Any, Any],
        base: Base,
        scale: Share = 0.1,
        vec_normalize: Statistics = None,
    ):
        # a live policy is no part of a specification: who makes the environment again has to give it again
        RecordConstructorArgs.__init__(self, base=_named(base), scale=scale, vec_normalize=_named(vec_normalize))
        gym.Wrapper.__init__(self, env)
        bare = _bounded(env.action_space)
        self.scale = float(scale)
        self.observation_space = with_base_action(env.observation_space, bare)
        self.action_space = spaces.Box(-1.0, 1.0, bare.shape, np.float32)
        acting = opened("base of ResidualActions", base, env.observation_space, bare, vec_normalize)
        self._predict = acting.predict
        check_known(acting.source, ("reward",), "in an environment")
        self._memory: Any = None
        self._reward = 0.0
        self._base_action = np.zeros(bare.shape, np.float32)

    def _observe(self, observation: Any, starts: bool) -> Any:
        one = map_observations(lambda value: np.asarray(value)[None], observation)
        along = {"reward": np.array([self._reward], np.float32)}
        actions, self._memory = self._predict(one, self._memory, np.array([starts]), along=along)
        self._base_action = _to_unit(_finite(actions), self.env.action_space)[0]
        return _joined(observation, self._base_action, self.observation_space)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        observation, info = self.env.reset(seed=seed, options=options)
        self._memory, self._reward = None, 0.0
        return self._observe(observation, starts=True), info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        unit = executed_actions(self._base_action, np.asarray(action), self.scale)
        executed = _from_unit(unit, self.env.action_space)
        observation, reward, terminated, truncated, info = self.env.step(executed)
        self._reward = float(reward)
        return (
            *(self._observe(observation, starts=False), reward, terminated, truncated),
            {**info, "executed_action": executed},
        )


class ResidualPolicy:
    """
    What acts in :class:`ResidualActions`, the base and its correction, as one policy of the bare environment: for
    deployment, for evaluations there, and as a source of ``load_offline``, which clones it into a single network.

    :param base: as for :class:`ResidualActions`
    :param residual: a model that was trained there, live or its path
    :param env: the bare environment, or several
    :param scale: as it was trained with, in (0, 1]
    :param vec_normalize: by which statistics the base saw observations
    :raises ValueError: if either cannot act here, as a residual that was trained without the base's action
    """

    @checked
    def __init__(
        self,
        base: Base,
        residual: Base,
        env: Environments,
        scale: Share = 0.1,
        vec_normalize: Statistics = None,
    ):
        self.observation_space, self.action_space = env.observation_space, _bounded(env.action_space)
        self.scale = float(scale)
        self._seen = with_base_action(self.observation_space, self.action_space)
        name, unit = type(self).__name__, spaces.Box(-1.0, 1.0, self.action_space.shape, np.float32)
        self._base = opened(f"base of {name}", base, self.observation_space, self.action_space, vec_normalize)
        if self._base.asks:
            raise ValueError(
                f"The base of {name} acts by rewards, which nobody tells a policy that is to act: use ResidualActions."
            )
        self._residual = opened(f"residual of {name}", residual, self._seen, unit, None)

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = False
    ) -> tuple[np.ndarray, Any]:
        """
        :param observation: of the bare environment, one, ``(*obs)``, or several, ``(batch, *obs)``
        :param state: what was returned before, None at first
        :param episode_start: which of them begin an episode, ``(batch,)`` bool
        :param deterministic: the residual's most likely action instead of a sample
        :return: actions within the environment's bounds, one or several, and the state to hand on
        """
        is_one = _is_one(observation, self.observation_space)
        several = map_observations(lambda value: np.asarray(value)[None] if is_one else np.asarray(value), observation)
        of_base, of_residual = (None, None) if state is None else state
        actions, of_base = self._base.predict(several, of_base, episode_start)
        base = _to_unit(_finite(actions), self.action_space)
        seen = _joined(several, base, self._seen)
        residual, of_residual = self._residual.predict(seen, of_residual, episode_start, deterministic)
        found = _from_unit(executed_actions(base, residual, self.scale), self.action_space)
        memory = None if of_base is None and of_residual is None else (of_base, of_residual)
        return found[0] if is_one else found, memory


def opened(what: str, policy: Any, observations: spaces.Space, actions: spaces.Box, vec_normalize: Any) -> Acting:
    """
    :param what: whose policy it is, for errors
    :param policy: of any kind
    :param observations: what it will see, before the wrappers of Stable-Baselines3
    :param actions: what it may do
    :param vec_normalize: by which statistics it saw observations, or None to ask it
    :return: the policy
    :raises ValueError: if there is none, or it was trained in other spaces
    """
    path = None
    if isinstance(policy, str | os.PathLike):
        path = saved_model_path(policy) if os.path.exists(policy) or os.path.exists(f"{policy}.zip") else None
        if path is None:
            raise ValueError(f"{what} is {policy!r}, and there is no saved model at this path.")
        policy = open_saved(saved_family(path), path)
        if policy is None:
            raise unknown_family(path)
    if isinstance(policy, BaseAlgorithm | BasePolicy):
        name = f"The {what} ({type(policy).__name__})"
        check_spaces(name, policy.observation_space, policy.action_space, observations, actions)
    seen = Seen.by(policy, path, None, vec_normalize)
    return Acting(policy, actions, seen.normalizer)


def with_base_action(observations: spaces.Space, actions: spaces.Box) -> spaces.Space:
    """
    :param observations: of the bare environment
    :param actions: likewise
    :return: observations with the base's action, scaled to [-1, 1]
    :raises ValueError: if a dictionary has such an entry already
    """
    base = spaces.Box(-1.0, 1.0, actions.shape, np.float32)
    if isinstance(observations, spaces.Dict):
        if BASE_ACTION in observations.spaces:
            raise ValueError(f"Observations have an entry {BASE_ACTION!r} already: one base policy is enough.")
        return spaces.Dict({**observations.spaces, BASE_ACTION: base})
    if not isinstance(observations, spaces.Box) or len(observations.shape) != 1:
        return spaces.Dict({"observation": observations, BASE_ACTION: base})
    dtype = observations.dtype if np.issubdtype(observations.dtype, np.floating) else np.dtype(np.float32)
    low, high = (
        np.concatenate([of_env, of_base.ravel()]).astype(dtype)
        for of_env, of_base in ((observations.low, base.low), (observations.high, base.high))
    )
    return spaces.Box(low, high, dtype=dtype.type)


def _joined(observation: Any, base: np.ndarray, space: spaces.Space) -> Any:
    """One observation, or several, with the base's actions as :func:`with_base_action` describes them."""
    if isinstance(space, spaces.Dict):
        return {
            **(observation if isinstance(observation, Mapping) else {"observation": observation}),
            BASE_ACTION: base,
        }
    observation = np.asarray(observation)
    return np.concatenate([observation, base.reshape(*observation.shape[:-1], -1)], axis=-1).astype(space.dtype)


def _named(value: Any) -> str | None:
    return os.fspath(value) if isinstance(value, str | os.PathLike) else None


def _bounded(space: spaces.Space) -> spaces.Box:
    if not isinstance(space, spaces.Box) or not space.is_bounded():
        raise ValueError(f"A residual is a share of the range of actions, and these have none: {space}.")
    return space


def _is_one(observation: Any, space: spaces.Space) -> bool:
    """Whether it is one observation, not several."""
    if isinstance(space, spaces.Dict):
        key = next(iter(space.spaces))
        return _is_one(observation[key], space.spaces[key])
    return np.ndim(observation) == len(space.shape or ())


def _finite(actions: np.ndarray) -> np.ndarray:
    if not np.isfinite(actions).all():
        raise ValueError(f"The base policy's action is not finite: {actions}.")
    return actions


def _to_unit(actions: np.ndarray, space: Any) -> np.ndarray:
    return (2.0 * (actions - space.low) / (space.high - space.low) - 1.0).astype(np.float32)


def _from_unit(actions: np.ndarray, space: Any) -> np.ndarray:
    executed = space.low + 0.5 * (actions + 1.0) * (space.high - space.low)
    return np.clip(executed, space.low, space.high).astype(space.dtype)

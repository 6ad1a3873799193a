"""Whole episodes of a policy, in as many environments at once as there are."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.type_aliases import PolicyPredictor
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecMonitor, is_vecenv_wrapped

from sb3_o2o.evaluation.curve_metrics import is_success
from sb3_o2o.evaluation.infos import copy_infos_quickly

#: more environments side by side cost memory, and save little: a batch of 16 observations is as fast as one
MOST_SIDE_BY_SIDE = 16


def n_side_by_side(n_episodes: int) -> int:
    """
    :param n_episodes: episodes to play
    :return: environments that pay for them: one for each, up to 16
    """
    return min(n_episodes, MOST_SIDE_BY_SIDE)


@dataclass
class Episode:
    """
    One episode that has ended, or goes on.

    :param total: undiscounted return so far; the monitor's at the end, where there is one
    :param length: environment steps so far
    :param success: whether a step reported success; None until one reports success or failure
    """

    total: float = 0.0
    length: int = 0
    success: bool | None = None

    def add(self, reward: float, info: dict[str, Any]) -> None:
        """
        :param reward: of the step
        :param info: of the step
        """
        self.total += reward
        self.length += 1
        success = is_success(info)
        if success is not None:
            self.success = bool(self.success) or success


class Slot(gym.Wrapper[Any, Any, Any, Any]):
    """
    One of several environments side by side. It plays the episodes that are its own and then waits, without a step of
    the environment, until the others have done the same.

    :param env: the environment
    :param seeds: of its episodes, in order; None leaves one unseeded
    :param monitored: episodes end where the monitor inside it says so, see :func:`_has_ended`
    """

    def __init__(self, env: gym.Env[Any, Any], seeds: Sequence[int | None], monitored: bool):
        super().__init__(env)
        self.seeds = list(seeds)
        self.monitored = monitored
        self.last: Any = None
        self.waits = False
        self._goes_on = False

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """
        :param seed: taken where the episode has none of its own
        :param options: the environment's
        :return: the environment's, or the last observation again
        """
        info: dict[str, Any] = {}
        if self._goes_on or self.seeds:
            own = None if self._goes_on else self.seeds.pop(0)
            self.last, info = self.env.reset(seed=seed if own is None else own, options=options)
        else:
            self.waits = True
            if self.last is None:  # more environments than episodes: it only shows what it looks like
                self.last, info = self.env.reset(seed=seed, options=options)
        return self.last, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """
        :param action: for the environment
        :return: the environment's answer; while it waits, the last observation and no reward
        """
        if self.waits:
            return self.last, 0.0, False, False, {}
        observation, reward, terminated, truncated, info = self.env.step(action)
        self._goes_on = (terminated or truncated) and self.monitored and "episode" not in info
        return observation, reward, terminated, truncated, info


def seeds_of_episodes(seed: int | None, n_episodes: int) -> list[int | None]:
    """
    :param seed: of an evaluation, >= 0; None for none
    :param n_episodes: number of episodes
    :return: one seed for each; those of the first episodes are the same however many follow
    """
    if seed is None:
        return [None] * n_episodes
    return [int(each) for each in np.random.SeedSequence(seed).generate_state(n_episodes)]


@contextmanager
def slots(env: VecEnv, seeds: Sequence[int | None], monitored: bool) -> Iterator[None]:
    """
    While it is open, environment i of n plays the episodes i, i + n, i + 2n ... and waits for the others. Those in
    other processes cannot wait: they begin further episodes, which nobody counts, and only the first of each is seeded.

    :param env: environments, in wrappers or not
    :param seeds: one for each episode
    :param monitored: episodes end where the monitor inside each environment says so
    """
    innermost, n_envs = env.unwrapped, env.num_envs
    if not isinstance(innermost, DummyVecEnv):
        if seeds and seeds[0] is not None:
            env.seed(seeds[0])
        yield
        return
    own = innermost.envs
    innermost.envs = [Slot(each, seeds[index::n_envs], monitored) for index, each in enumerate(own)]
    try:
        yield
    finally:
        innermost.envs = own


def play(
    policy: PolicyPredictor, env: VecEnv, n_episodes: int, deterministic: bool = True, seed: int | None = None
) -> list[Episode]:
    """
    Let a policy act for whole episodes. Which environment plays which episode is settled beforehand, so that short
    episodes count no more often than long ones. Seeds belong to episodes: with environments in this process, a
    deterministic policy's are the same in one environment as in ten, to the rounding of its network. Recurrent
    policies keep a state for each environment.

    :param policy: anything with Stable-Baselines3's ``predict``
    :param env: environments; they are reset first
    :param n_episodes: number of episodes, > 0
    :param deterministic: act by the mode of the policy, or by sampling
    :param seed: of the evaluation, see :func:`seeds_of_episodes`
    :return: the episodes, in the order in which they are numbered
    """
    inside, outside = env.env_is_wrapped(Monitor)[0], is_vecenv_wrapped(env, VecMonitor)
    running: dict[int, Episode] = {}
    ended: dict[int, Episode] = {}
    state: Any = None

    def act(observations: Any, starts: np.ndarray, _: Sequence[int]) -> np.ndarray:
        nonlocal state
        actions, state = policy.predict(observations, state=state, episode_start=starts, deterministic=deterministic)
        return actions

    def see(step: EpisodeStep) -> bool:
        episode = running.setdefault(step.episode, Episode())
        episode.add(step.reward, step.info)
        is_over = step.done and _has_ended(episode, step.info, inside or outside)
        if is_over:
            ended[step.episode] = running.pop(step.episode)
        return is_over

    # a monitor around all of them takes every end for an episode's, and says so behind the environments' backs
    play_steps(act, see, env, seeds_of_episodes(seed, n_episodes), monitored=inside and not outside)
    return [ended[index] for index in range(n_episodes)]


class EpisodeStep(NamedTuple):
    """
    What one environment answered.

    :param episode: its number
    :param environment: which of those side by side played it
    :param reward: of the step
    :param done: as the policy sees it
    :param info: of the step
    """

    episode: int
    environment: int
    reward: float
    done: bool
    info: dict[str, Any]


def play_steps(
    act: Callable[[Any, np.ndarray, Sequence[int]], np.ndarray],
    see: Callable[[EpisodeStep], bool],
    env: VecEnv,
    seeds: Sequence[int | None],
    monitored: bool,
) -> None:
    """
    Play whole episodes side by side, which environment which one being settled beforehand.

    :param act: gives the actions for observations, for whether each begins an episode, and for the numbers of the
        episodes, ``(n_envs,)`` each; numbers from ``len(seeds)`` on are nobody's, and their actions do not count
    :param see: is told every step that counts; says whether the episode is over
    :param env: environments; they are reset first
    :param seeds: one for each episode
    :param monitored: episodes end where the monitor inside each environment says so
    """
    n_envs = env.num_envs
    numbers = list(range(n_envs))  # what each environment plays
    copy_infos_quickly(env)
    with slots(env, seeds, monitored):
        observations: Any = env.reset()
        starts = np.ones(n_envs, dtype=bool)
        while min(numbers) < len(seeds):
            observations, rewards, starts, infos = env.step(act(observations, starts, numbers))
            for index, number in enumerate(numbers):
                if number < len(seeds):
                    step = EpisodeStep(number, index, float(rewards[index]), bool(starts[index]), infos[index])
                    numbers[index] += n_envs if see(step) else 0


def _has_ended(episode: Episode, info: dict[str, Any], monitored: bool) -> bool:
    """
    Wrappers may end an episode for the policy and not for the monitor (a life lost in Atari), and change its rewards:
    the monitor is right.
    """
    if monitored and "episode" not in info:
        return False
    if monitored:
        episode.total, episode.length = float(info["episode"]["r"]), int(info["episode"]["l"])
    return True

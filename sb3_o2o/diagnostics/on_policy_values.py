"""What a critic says of its policy, beside what that policy earns: rollouts, in several environments at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from stable_baselines3.common.type_aliases import PyTorchObs
from stable_baselines3.common.vec_env import VecEnv

from sb3_o2o.checked import checked
from sb3_o2o.data.rewards import scaled_rewards
from sb3_o2o.diagnostics.environment import raw_environments, refuse_training_environment
from sb3_o2o.diagnostics.measure import (
    AnyModel,
    check_model,
    discount_factor,
    entropy_bonus,
    is_stochastic,
    looking,
    reduced_q,
)
from sb3_o2o.diagnostics.q_values import normalized_difference, true_q_values
from sb3_o2o.evaluation.evaluate import AnyEnvironments
from sb3_o2o.evaluation.rollouts import EpisodeStep, play_steps, seeds_of_episodes
from sb3_o2o.kinds import Count, Seed


@dataclass(frozen=True)
class QEstimates:
    """
    Values along one episode of the present policy.

    :param estimated: Q of the critic, as the actor sees it, ``(n,)``
    :param true: discounted return from the same steps, on the training scale of rewards, ``(n,)``
    """

    estimated: np.ndarray
    true: np.ndarray


@checked
def on_policy_q_values(
    model: AnyModel, env: AnyEnvironments, n_episodes: Count = 3, seed: Seed = 0, n_envs: Count | None = None
) -> list[QEstimates]:
    """
    Let the policy act, as it does while it trains (sampled actions; a deterministic policy's are without noise), and
    compare its critic with what it earns. The training's random streams are left as they were. Each episode has its own
    seed, of the environment and of the actions: it is the same in one environment as side by side with others, to the
    rounding of the networks.

    An episode that a time limit cuts goes on, in the discounted returns, with the critic's own value of the last state;
    steps whose returns depend on it most, the last ``1 / (1 - gamma)`` or at most half, are left out. Where the
    critic's values contain the entropy, so do the returns.

    :param model: an O2OSAC or O2OTD3
    :param env: environment that pays raw rewards, or several, its id, or a function that makes one; not the training's
        own; it is seeded and reset
    :param n_episodes: whole episodes, >= 1
    :param seed: of the episodes
    :param n_envs: environments to make, where an id or a function says how; default: one for each episode, up to 16
    :return: one entry for each episode
    :raises ValueError: for another model, the training's environment, no episode, or ``n_envs`` of environments that
        are there already
    """
    for_whom = "on_policy_q_values"
    check_model(model, for_whom)
    vec_env = raw_environments(env, n_episodes, n_envs)
    try:
        refuse_training_environment(vec_env, model, for_whom)
        with looking(model, seed):
            rollouts = _Rollouts(model, seeds_of_episodes(seed, n_episodes))
            # what the critic sees ends where the policy's episode does, whatever a monitor says
            play_steps(rollouts.act, rollouts.see, vec_env, rollouts.seeds, monitored=False)
            return [rollouts.estimates(each) for each in rollouts.episodes]
    finally:
        if not isinstance(env, VecEnv | gym.Env):
            vec_env.close()


@checked
def q_difference_to_online(
    model: AnyModel,
    online: AnyModel,
    env: AnyEnvironments,
    n_episodes: Count = 3,
    seed: Seed = 0,
    n_envs: Count | None = None,
) -> float:
    """
    SO2's comparison with online reinforcement learning (Zhang et al. 2024, figure 2b): the normalised difference of a
    model's values from its own returns, less the same of a model that was trained online alone, such as SAC from
    scratch with a return like the other's. Above 0 the first over-estimates more than online training does.

    :param model: an O2OSAC or O2OTD3
    :param online: another, trained online
    :param env: environment that pays raw rewards, or several, its id, or a function that makes one; both policies act
        in it, from the same seeds
    :param n_episodes: whole episodes of each, >= 1
    :param seed: of the episodes
    :param n_envs: see :func:`on_policy_q_values`
    :return: the difference of the two means
    :raises ValueError: see :func:`on_policy_q_values`
    """
    found = []
    for each in (model, online):
        episodes = on_policy_q_values(each, env, n_episodes, seed, n_envs)
        estimated, true = (np.concatenate([getattr(one, name) for one in episodes]) for name in ("estimated", "true"))
        found.append(normalized_difference(estimated, true))
    return found[0] - found[1]


@dataclass
class _Episode:
    """
    What is known of an episode that goes on or has ended.

    :param generator: of the policy's draws
    """

    generator: th.Generator
    estimated: list[float] = field(default_factory=list)
    bonuses: list[float] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    #: value of the state after the last step
    last_value: float = 0.0
    truncated: bool = False


class _Rollouts:
    """
    Episodes of the present policy, which keeps its draws apart for each.

    :param model: whose policy acts
    :param seeds: of the episodes
    """

    def __init__(self, model: Any, seeds: Sequence[int | None]):
        self.model, self.seeds = model, seeds
        device = model.device
        self.episodes = [_Episode(th.Generator(device).manual_seed(int(seed or 0))) for seed in seeds]
        self._of_nobody = _Episode(th.Generator(device))

    def act(self, observations: Any, starts: np.ndarray, numbers: Sequence[int]) -> np.ndarray:
        """See :func:`~sb3_o2o.evaluation.rollouts.play_steps`."""
        episodes = [self.episodes[each] if each < len(self.episodes) else self._of_nobody for each in numbers]
        seen = self._seen(observations)
        actions, log_prob = self._policy_actions(seen, episodes)
        values, bonuses = reduced_q(self.model, self.model.critic, seen, actions), entropy_bonus(self.model, log_prob)
        said = values.tolist(), [0.0] * len(episodes) if bonuses is None else bonuses.tolist()
        for episode, value, bonus in zip(episodes, *said, strict=True):
            if episode is not self._of_nobody:
                episode.estimated.append(value)
                episode.bonuses.append(bonus)
        shaped = actions.clamp(-1.0, 1.0).cpu().numpy().reshape(-1, *self.model.action_space.shape)
        return np.asarray(self.model.policy.unscale_action(shaped))

    def see(self, step: EpisodeStep) -> bool:
        """See :func:`~sb3_o2o.evaluation.rollouts.play_steps`."""
        episode = self.episodes[step.episode]
        episode.rewards.append(self._paid(step.reward))
        if step.done and step.info.get("TimeLimit.truncated", False):
            final, episode.truncated = step.info["terminal_observation"], True
            stacked: Any = (
                {key: value[None] for key, value in final.items()} if isinstance(final, dict) else final[None]
            )
            episode.last_value = self._state_value(self._seen(stacked), episode)
        return step.done

    def estimates(self, episode: _Episode) -> QEstimates:
        """
        :param episode: that has ended
        :return: its values, as far as its returns are known
        """
        rewards, gamma = episode.rewards, discount_factor(self.model)
        n_kept = len(rewards)
        if episode.truncated:
            horizon = round(1 / (1 - gamma)) if gamma < 1 else n_kept
            n_kept -= min(horizon, n_kept // 2)
        true = true_q_values(rewards, gamma, bonuses=episode.bonuses, last_value=episode.last_value)
        return QEstimates(np.array(episode.estimated[:n_kept]), true[:n_kept])

    def _policy_actions(self, observations: PyTorchObs, episodes: list[_Episode]) -> tuple[th.Tensor, Any]:
        """Scaled actions ``(n, act)`` and their log-probabilities, ``(n,)`` or None."""
        actor = self.model.actor
        if not is_stochastic(actor):
            return actor(observations), None
        if actor.use_sde:  # it has a noise of its own for as many rows as training has environments: row by row
            rows = [_row(observations, index) for index in range(len(episodes))]
            actions, log_probs = zip(*(actor.rsample(row, None) for row in rows), strict=True)
            return th.cat(actions), th.cat(log_probs)
        shape, device = (1, self.model.action_dim), self.model.device
        noise = [th.randn(shape, generator=each.generator, device=device) for each in episodes]
        return actor.rsample(observations, th.cat(noise))

    def _state_value(self, observations: PyTorchObs, episode: _Episode) -> float:
        actions, log_prob = self._policy_actions(observations, [episode])
        value = reduced_q(self.model, self.model.critic, observations, actions)
        bonus = entropy_bonus(self.model, log_prob)
        return (value if bonus is None else value + bonus).item()

    def _seen(self, observations: Any) -> PyTorchObs:
        """Raw observations as the networks get them."""
        normalizer = self.model.get_vec_normalize_env()
        if normalizer is not None:
            observations = normalizer.normalize_obs(observations)
        return self.model.policy.obs_to_tensor(observations)[0]

    def _paid(self, reward: float) -> float:
        normalizer = self.model.get_vec_normalize_env()
        rewards = np.array([reward])
        if normalizer is not None:
            rewards = normalizer.normalize_reward(rewards)
        return float(scaled_rewards(rewards, self.model.reward_scale, self.model.reward_shift)[0])


def _row(observations: PyTorchObs, index: int) -> PyTorchObs:
    if isinstance(observations, dict):
        return {key: value[index : index + 1] for key, value in observations.items()}
    return observations[index : index + 1]

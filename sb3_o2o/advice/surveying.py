"""Measures what the rules ask for: returns, rewards and coverage of a dataset; score and critic of a policy."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.base_class import BaseAlgorithm

from sb3_o2o.advice.facts import DatasetFacts, PolicyFacts, Unit
from sb3_o2o.data import OfflineDataset
from sb3_o2o.diagnostics import mean_window_tau, on_policy_q_values
from sb3_o2o.diagnostics.q_values import mean_or_nan
from sb3_o2o.evaluation import evaluate
from sb3_o2o.evaluation.spaces_compared import check_acts_in
from sb3_o2o.runs.environments import Environment
from sb3_o2o.runs.references import reference_for
from sb3_o2o.transfer.archive import ALGORITHMS_BY_FAMILY

#: states whose neighbours are looked at, transitions that may be neighbours, and neighbours of each
N_STATES, N_CANDIDATES, N_NEIGHBOURS = 500, 20_000, 10
#: episodes in which the critic is compared with returns
TAU_EPISODES = 10


class Survey:
    """
    Measures a dataset, and policies beside it in the same unit.

    :param dataset: what is measured, by the rewards that the environment pays
    :param name: of the dataset
    :param environment: where policies act
    :param seed: of samples and episodes
    """

    def __init__(self, dataset: OfflineDataset, name: str, environment: Environment, seed: int = 0):
        dataset = dataset.with_raw_rewards()  # as those of the policy's episodes
        self.dataset, self.name, self.environment, self.seed = dataset, name, environment, seed
        self.reference = reference_for(dataset, name, environment.id)
        #: of a step that has not reached the goal; None where no step is a success
        self.negative_reward = None if _pays_for_going_on(dataset) else dataset.negative_reward()
        self.unit: Unit = "return" if self.reference is None else "score"
        if self.negative_reward is not None:
            self.unit = "success"

    def of_dataset(self) -> DatasetFacts:
        """What the rules ask of the dataset."""
        returns = self._in_unit(self.dataset.episode_returns, self.dataset.episode_lengths)
        best = np.sort(returns)[-max(math.ceil(len(returns) / 10), 1) :]
        span = float(returns.max() - returns.min())
        return DatasetFacts(
            name=self.name,
            env_id=self.environment.id,
            transitions=len(self.dataset),
            episodes=len(returns),
            unit=self.unit,
            mean=float(returns.mean()),
            deviation=float(returns.std()),
            best=float(best.mean()),
            scale=span if self.unit == "return" else 100.0,
            sparse=self.negative_reward is not None,
            coverage=coverage(self.dataset, self.seed),
        )

    def of_policy(self, policy: Any, name: str, n_episodes: int) -> PolicyFacts:
        """
        :param policy: anything with ``predict``
        :param name: of it
        :param n_episodes: that are played
        :return: what the rules ask of a policy
        :raises ValueError: it sees or does something else than the environment
        """
        env = self.environment.make_vectorised(min(n_episodes, 16), self.seed)
        try:
            check_acts_in("The policy", policy, env, self.environment.id)
            result = evaluate(policy, env, n_episodes, reference=self.reference, seed=self.seed)
        finally:
            env.close()
        returns = self._in_unit(result.returns, result.lengths)
        return PolicyFacts(
            name=name,
            family=family_of(policy),
            mean=float(returns.mean()),
            deviation=float(returns.std()),
            episodes=n_episodes,
            kendall_tau=self._kendall_tau(policy),
        )

    def _in_unit(self, returns: NDArray[np.float64], lengths: NDArray[np.int64]) -> NDArray[np.float64]:
        """Returns of episodes as the rules see them."""
        if self.negative_reward is not None:  # one step that pays the other reward is a success
            failed, other = self.negative_reward * lengths, float(self.dataset.rewards.max())
            # where no step reached the goal the other reward is not known, and returns differ from failures by rounding
            least = np.maximum((other - self.negative_reward) / 2, 1e-6 * np.abs(failed))
            return np.where(returns - failed > least, 100.0, 0.0)
        return returns.astype(np.float64) if self.reference is None else self.reference.normalize(returns)

    def _kendall_tau(self, policy: Any) -> float | None:
        """Rank correlation of its critic with returns; None without a critic of ours, or behind ``VecNormalize``."""
        if not hasattr(getattr(policy, "critic", None), "q_values"):
            return None
        if getattr(policy, "saved_normalizer", None) is not None:
            return None
        env = self.environment.make_vectorised(TAU_EPISODES, self.seed)
        try:
            episodes = on_policy_q_values(policy, env, TAU_EPISODES, self.seed)
        finally:
            env.close()
        tau = mean_or_nan([mean_window_tau(each.estimated, each.true) for each in episodes])
        return None if math.isnan(tau) else tau


def _pays_for_going_on(dataset: OfflineDataset) -> bool:
    """Whether the lower of two rewards is that of the step with which an episode ends badly: a pole that falls."""
    is_lower = dataset.rewards < (dataset.rewards.min() + dataset.rewards.max()) / 2
    return bool(is_lower.any()) and bool(dataset.terminations[is_lower].all())


def family_of(policy: Any) -> str:
    """
    :param policy: anything with ``predict``
    :return: the stock algorithm that it is, or is of: ``"SAC"``, ``"TD3"`` …; ``"callable"`` for none
    """
    if not isinstance(policy, BaseAlgorithm):
        return "callable"
    ours = next((name for name, each in ALGORITHMS_BY_FAMILY.items() if isinstance(policy, each)), None)
    return type(policy).__name__ if ours is None else ours


def coverage(dataset: OfflineDataset, seed: int = 0) -> float | None:
    """
    How different the actions are that were taken in similar states: standard deviation over the nearest states of
    other episodes (of normalised observations), over that of uniform actions, averaged over states and entries of the
    action. The counts of state-action pairs of Schweighofer et al. 2022 (arXiv:2111.04714) ask the same of discrete
    spaces.

    :param dataset: any
    :param seed: of the sampled states
    :return: 0 where similar states always had the same action, about 1 for uniform ones; None for images, and for too
        few states to compare
    """
    rng = np.random.default_rng(seed)
    candidates = np.sort(rng.permutation(len(dataset))[:N_CANDIDATES])
    states = _vectors(dataset.observations_at(candidates))
    if states is None:
        return None
    states = (states - states.mean(axis=0)) / np.maximum(states.std(axis=0), 1e-6)
    actions, episodes = dataset.actions[candidates], dataset.episode_of(candidates)
    deviations = []
    for row in rng.permutation(len(candidates))[:N_STATES]:
        distances = ((states - states[row]) ** 2).sum(axis=1)
        distances[episodes == episodes[row]] = np.inf  # the steps before and after are no other try
        nearest = np.argpartition(distances, min(N_NEIGHBOURS, len(distances)) - 1)[:N_NEIGHBOURS]
        if len(nearest) == N_NEIGHBOURS and np.isfinite(distances[nearest]).all():
            deviations.append(actions[nearest].std(axis=0, dtype=np.float64).mean())
    return float(np.mean(deviations)) * math.sqrt(3.0) if deviations else None  # uniform on [-1, 1]: 1 / sqrt(3)


def _vectors(observations: Any) -> NDArray[np.float64] | None:
    """A row of numbers for each observation; None for images."""
    arrays = list(observations.values()) if isinstance(observations, dict) else [observations]
    if any(array.dtype == np.uint8 or array.ndim > 2 for array in arrays):
        return None
    return np.concatenate([array.reshape(len(array), -1) for array in arrays], axis=1, dtype=np.float64)

"""Which of several policies to go on with, for a budget of episodes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv

from sb3_o2o.checked import checked
from sb3_o2o.evaluation.evaluate import (
    PREDICTS,
    AnyEnvironments,
    Evaluation,
    evaluate,
    preserved_random_state,
    side_by_side,
)
from sb3_o2o.evaluation.rollouts import seeds_of_episodes
from sb3_o2o.evaluation.scores import ReferenceScore
from sb3_o2o.evaluation.spaces_compared import check_acts_in
from sb3_o2o.kinds import Count, Seed, kind

_CANDIDATES = kind(
    "a dictionary {name: model}, of two or more",
    lambda value: isinstance(value, Mapping) and len(value) > 1 and all(map(PREDICTS.accepts, value.values())),
)


@dataclass(frozen=True)
class Candidate:
    """
    What the episodes of one policy came to.

    :param name: of the policy
    :param returns: undiscounted, unscaled return of each of its episodes, shape (episodes,)
    :param scores: the same as normalised scores (0 random, 100 expert), or the returns where no references are known
    :param rounds: rounds of halving that it was in; all of them only for the one that is chosen
    """

    name: str
    returns: NDArray[np.float64]
    scores: NDArray[np.float64]
    rounds: int

    @property
    def standard_error(self) -> float:
        """Of the mean return; NaN of a single episode."""
        n = len(self.returns)
        return float(self.returns.std(ddof=1) / math.sqrt(n)) if n > 1 else math.nan


@dataclass(frozen=True)
class Selection:
    """
    Candidates in the order of the choice, the chosen one first.

    :param candidates: those that stayed longer come first, and of these the better mean
    :param n_episodes: how many were played in all, at most as many as were asked for
    :param note: where the references come from, or why there are no normalised scores
    """

    candidates: tuple[Candidate, ...]
    n_episodes: int
    note: str

    @property
    def best(self) -> str:
        """Name of the chosen one."""
        return self.candidates[0].name

    def __str__(self) -> str:
        lines = [
            f"{each.name}: return {each.returns.mean():.1f} ± {each.standard_error:.1f} ({len(each.returns)} episodes)"
            for each in self.candidates
        ]
        return "\n".join([f"{self.best} of {len(lines)}, after {self.n_episodes} episodes", *lines])


def episodes_of_rounds(n_candidates: int, n_episodes: int) -> list[tuple[int, int]]:
    """
    Sequential halving (Karnin et al. 2013, algorithm 1): of K candidates, ``L = ceil(log2 K)`` rounds have equal shares
    of the budget N, and each round leaves the better half of its candidates, the middle one included::

        episodes of each candidate in a round of k = floor(N / (L k)),        k <- ceil(k / 2)

    :param n_candidates: K, at least 2
    :param n_episodes: N
    :return: of each round its candidates, and the episodes that each of them plays
    :raises ValueError: if not every candidate would play
    """
    n_rounds, left = math.ceil(math.log2(n_candidates)), n_candidates
    if n_episodes < n_rounds * n_candidates:
        raise ValueError(
            f"n_episodes={n_episodes} are too few for {n_candidates} candidates in {n_rounds} rounds: each would have "
            f"to play once in the first. Give at least {n_rounds * n_candidates}."
        )
    rounds = []
    for _ in range(n_rounds):
        rounds.append((left, n_episodes // (n_rounds * left)))
        left = math.ceil(left / 2)
    return rounds


@checked
def select_policy(
    candidates: Annotated[Mapping[str, Any], _CANDIDATES],
    env: AnyEnvironments,
    n_episodes: Count = 60,
    *,
    deterministic: bool = True,
    reference: ReferenceScore | None = None,
    seed: Seed = 0,
    n_envs: Count | None = None,
) -> Selection:
    """
    Find the best of several policies, such as the checkpoints of an offline run, within a budget of episodes. Offline
    estimates rank policies badly, and scoring all of them well spends the steps that fine-tuning needs (Bozkurt et al.
    2026, arXiv:2605.05123). The budget goes where the choice is close, by sequential halving (see
    :func:`episodes_of_rounds`): the mean of *all* episodes that a policy has played counts, and in a round every policy
    plays episodes of the same seeds, so that luck of the start is shared. Equal means: the one that was named first.

    The paper goes on to fine-tune what it is choosing between, by an upper confidence bound; here the choice comes
    first, and says nothing about which policy fine-tuning improves most.

    :param candidates: by name, anything with Stable-Baselines3's ``predict``; two or more
    :param env: environment that pays raw rewards, or several, its id, or a function that makes one
    :param n_episodes: budget over all policies, at least K ceil(log2 K)
    :param deterministic: act by the mode of the policy, or by sampling
    :param reference: references of normalised scores; default: the table's, by the environment's id
    :param seed: of the episodes
    :param n_envs: environments to make, where an id or a function says how; default: up to 16
    :return: the order of the policies, with their numbers
    :raises ValueError: if a policy was trained with other observations or actions, or the budget is too small
    """
    rounds = episodes_of_rounds(len(candidates), n_episodes)
    with preserved_random_state():  # making an environment draws numbers as well
        vec_env = side_by_side(env, max(share for _, share in rounds), n_envs)
        try:
            for name, policy in candidates.items():
                check_acts_in(f"Candidate {name!r}", policy, vec_env, "the environment")
            played = _halve(candidates, vec_env, rounds, deterministic, reference, seed)
        finally:
            if vec_env is not env and not isinstance(env, gym.Env):
                vec_env.close()
    order = sorted(candidates, key=lambda name: (-len(played[name]), -_returns(played[name]).mean()))
    found = tuple(
        Candidate(
            name,
            _returns(played[name]),
            np.concatenate([each.returns if each.normalized is None else each.normalized for each in played[name]]),
            len(played[name]),
        )
        for name in order
    )
    return Selection(found, sum(len(each.returns) for each in found), played[order[0]][0].note)


def _halve(
    candidates: Mapping[str, Any],
    env: VecEnv,
    rounds: Sequence[tuple[int, int]],
    deterministic: bool,
    reference: ReferenceScore | None,
    seed: int,
) -> dict[str, list[Evaluation]]:
    """:return: for each candidate its evaluations, one for each round that it was in"""
    seeds = seeds_of_episodes(seed, len(rounds))  # each round has episodes of its own
    played: dict[str, list[Evaluation]] = {name: [] for name in candidates}
    left = list(candidates)
    for own_seed, (n_left, share) in zip(seeds, rounds, strict=True):
        left = left[:n_left]
        for name in left:
            result = evaluate(
                candidates[name], env, share, deterministic=deterministic, reference=reference, seed=own_seed
            )
            played[name].append(result)
        left.sort(key=lambda name: -_returns(played[name]).mean())  # stable: of equals the first stays first
    return played


def _returns(evaluations: Sequence[Evaluation]) -> NDArray[np.float64]:
    return np.concatenate([each.returns for each in evaluations])

"""Jump-start reinforcement learning: the offline policy begins the episodes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from sb3_o2o.checked import checked
from sb3_o2o.finetuning.reference import _FrozenPolicyCallback
from sb3_o2o.kinds import Count, Fraction


class JumpStart(_FrozenPolicyCallback):
    """
    JSRL (Uchendu et al. 2022) as WSRL compares with it (Zhou et al. 2024, appendix I): with some probability, which
    falls with the environment steps, the frozen offline policy rolls an episode in for a random number of steps, and
    the policy that learns finishes it. All transitions are learned from. The learning policy starts as the offline one,
    its critics afresh. (The original starts both afresh, and shortens the roll-in along a curriculum of scores.)

    Each environment has its own roll-in, drawn when its episode begins: ``h ~ Geometric(1 / mean_steps)``, at least one
    step. The offline policy acts as it would collect: it samples where it has a density.

    :param probability: of a roll-in at the first step of the fine-tuning run, in [0, 1]
    :param end_probability: from ``anneal_steps`` on, in [0, 1]
    :param anneal_steps: environment steps of the fine-tuning run in between, at least 1
    :param mean_steps: mean length of a roll-in, in environment steps, at least 1
    :param fresh_critics: start the run with new critics, as the paper does
    """

    needs_replay_buffer = True

    @checked
    def __init__(
        self,
        probability: Fraction = 0.5,
        end_probability: Fraction = 0.0,
        anneal_steps: Count = 100_000,
        mean_steps: Count = 100,
        fresh_critics: bool = True,
    ):
        super().__init__()
        self.probability = probability
        self.end_probability = end_probability
        self.anneal_steps = anneal_steps
        self.mean_steps = mean_steps
        self.fresh_critics = fresh_critics
        self.begin_new_run()

    def begin_new_run(self) -> None:
        """See :meth:`FineTuningCallback.begin_new_run`."""
        super().begin_new_run()
        #: steps that the offline policy has left in each environment's episode; None before the first
        self.remaining: np.ndarray | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "remaining": None}  # of episodes that end where a model is saved and loaded

    def renews_critics(self, finished_phases: Sequence[str]) -> bool:
        """See :meth:`FineTuningCallback.renews_critics`."""
        return self.fresh_critics and not self.has_begun

    def _init_callback(self) -> None:
        if self.model.use_sde:
            raise ValueError(
                "JumpStart samples from a frozen copy of the policy, which gSDE cannot: set use_sde=False."
            )

    def _on_training_start(self) -> None:
        super()._on_training_start()
        if self.remaining is None:
            self.remaining = np.zeros(self.model.n_envs, dtype=int)  # of the episodes that are under way

    def _begin(self) -> None:
        if self.fresh_critics:
            self.model.renew_critics()
            self.model.copy_to_targets()

    def on_new_episodes(self) -> None:
        """See :meth:`FineTuningCallback.on_new_episodes`."""
        self.remaining = self._draw(self.model.n_envs)

    def _on_step(self) -> bool:
        assert self.remaining is not None
        dones = self.locals["dones"]
        self.remaining[dones] = self._draw(int(dones.sum()))
        return True

    def current_probability(self) -> float:
        """:return: of a roll-in in an episode that begins now"""
        progress = min(self.model.n_finetuning_steps / self.anneal_steps, 1.0)
        return self.probability + (self.end_probability - self.probability) * progress

    def _draw(self, n_episodes: int) -> np.ndarray:
        """:return: steps that the offline policy acts at the beginning of each episode, ``(n_episodes,)``"""
        steps = np.random.geometric(1 / self.mean_steps, size=n_episodes)
        return np.where(np.random.random(n_episodes) < self.current_probability(), steps, 0)

    def act(self, observations: np.ndarray | dict[str, np.ndarray]) -> np.ndarray | None:
        """
        :param observations: ``(n_envs, *obs)``
        :return: the offline policy's actions, NaN where the learning policy acts; None where it does everywhere
        """
        assert self.remaining is not None
        rolls_in = self.remaining > 0
        self.logger.record_mean("rollout/jump_start_share", rolls_in.mean())
        if not rolls_in.any():
            return None
        self.remaining[rolls_in] -= 1
        actions = self.offline_actions(observations)
        actions[~rolls_in] = np.nan
        return actions

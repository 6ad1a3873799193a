"""The best policy so far acts for users; the newest has to beat it in the environment first."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback
from torch import nn

from sb3_o2o.checked import checked
from sb3_o2o.errors import warn
from sb3_o2o.finetuning.reference import _FrozenPolicyCallback
from sb3_o2o.kinds import Fraction, NotNegative, whole
from sb3_o2o.networks import frozen_copy
from sb3_o2o.search_space import Range, SearchSpace

#: episodes of the champion before anybody challenges it
_FIRST_EPISODES = 3
#: episodes of both, and of the challenger, from which their spread says anything: from two that happen to be alike all
#: others are far away, and a challenger's returns may spread wider than the champion's
_FEWEST, _FEWEST_OF_CHALLENGER = 5, 2

#: part of the confidence that is enough in the end: a few episodes lead by luck more often than many, and a challenger
#: that has kept its lead for so long would have to begin again
_LAST_PART = 0.5

#: steps of an environment after which an episode that has not ended may never end
_LONG_EPISODE = 10_000

#: random numbers of the actions that are sampled
_DRAW = "champion_policy"


def challenge_statistic(champion: Sequence[float], challenger: Sequence[float]) -> float:
    """
    Student's t of two policies' returns, with one variance for both::

        t = (mean' - mean) / sqrt(s^2 (1/n + 1/k)),   s^2 = (sum of squares within both) / (n + k - 2)

    :param champion: its returns, n of them
    :param challenger: its returns, k of them
    :return: above 0 where the challenger's mean is higher; infinite where returns do not spread at all, and NaN as long
        as too little is known of their spread (fewer than five in all, or than two of the challenger's)
    """
    n, k = len(champion), len(challenger)
    if n == 0 or k < _FEWEST_OF_CHALLENGER or n + k < _FEWEST:
        return math.nan
    ours, theirs = np.asarray(champion, dtype=float), np.asarray(challenger, dtype=float)
    difference = float(theirs.mean() - ours.mean())
    variance = (((ours - ours.mean()) ** 2).sum() + ((theirs - theirs.mean()) ** 2).sum()) / (n + k - 2)
    scale = math.sqrt(variance * (1 / n + 1 / k))
    if scale == 0.0:
        return math.copysign(math.inf, difference) if difference else 0.0
    return difference / scale


class ChampionChallenger(_FrozenPolicyCallback):
    """
    Whoever uses the model does not see the learner fall. ``predict``, and with it every evaluation, answers with the
    best policy so far, the *champion*: at first the one with which ``learn`` starts. The learner explores in one
    episode as ever; the next is played as users would have it, without exploration, by a frozen copy of the newest
    policy, the *challenger*, which takes over once its returns are higher. Learning itself goes on as ever, from all
    transitions.

    A challenger that leads goes on acting until Student's t says that it leads for good: ``confidence`` at first, and
    half of it once both have played ``episodes``, because few episodes lead by luck more often than many. One that
    falls behind in the mean, or does not lead for good by then, makes room. The champion plays the first three
    episodes of the run, which is what it is measured by, and another one wherever a challenger that leads has played
    more. Of several environments one is played in that way at a time: those whose episodes end first would be measured
    by their short ones. No environment step is made beside those of ``learn``. A test can be wrong: the more
    challengers, the more often a worse one wins by luck.

    Ours; what it is like: OCR-CFT's reference is the best policy so far as well, by the scores of evaluations that the
    count of environment steps leaves out, and only a penalty goes back to it.

    ``to_sb3`` exports the champion, and ``load_offline`` begins another run with it. Save and load keep both. Given to
    ``learn(callback=...)`` and not to the constructor or ``load_offline``, it acts as long as the call: what an
    evaluation callback saves as ``best_model.zip`` is then the policy that learns, and the score is the champion's.

    :param episodes: that both play where nothing settles it before, at least 2
    :param confidence: Student's t from which it leads for good, >= 0, and half of it after ``episodes``; see
        :func:`challenge_statistic`
    :param champion_share: chance that the champion plays where the next challenger would, in [0, 1], so that its mean
        does not rest on the episodes in which it won
    :param fresh_learner: what learns begins the run anew, policy, critics and temperature, as if there had been no
        pre-training (RLPD, Ball et al. 2023), and nothing is lost by that, because the champion is kept
    """

    needs_replay_buffer = True
    must_be_trained = False
    search_space: ClassVar[SearchSpace] = {"episodes": Range(2, 10), "confidence": Range(0.5, 3.0)}

    @checked
    def __init__(
        self,
        episodes: Annotated[int, whole(2)] = 5,
        confidence: NotNegative = 2.0,
        champion_share: Fraction = 0.1,
        fresh_learner: bool = False,
    ):
        super().__init__()
        self.episodes = episodes
        self.confidence = confidence
        self.champion_share = champion_share
        self.fresh_learner = fresh_learner
        self.begin_new_run()

    def begin_new_run(self) -> None:
        """See :meth:`FineTuningCallback.begin_new_run`."""
        super().begin_new_run()
        #: the policy that challenges, or challenged last; None before the first ``learn`` of a run
        self.challenger: Any = None
        #: numbers of both; 0 is the policy that learns and explores, and stands for no challenger
        self.champion_number, self.challenger_number = 0, 0
        self.n_policies = 0
        #: gradient steps of pre-training behind the first champion
        self.n_pretrain_steps = 0
        self.champion_returns: list[float] = []
        self.challenger_returns: list[float] = []
        #: number of who plays in each environment, and rewards of the episode so far; None before the first
        self.acting: np.ndarray | None = None
        self.rewards: np.ndarray | None = None
        #: of each environment, since any episode ended
        self.steps_without_end = 0

    def __getstate__(self) -> dict[str, Any]:
        # episodes end where a model is saved and loaded
        state = {**super().__getstate__(), "acting": None, "rewards": None}
        if self.challenger is not None:
            state["challenger"] = copy.deepcopy(self.challenger).cpu()
        return state

    def _init_callback(self) -> None:
        if self.model.use_sde:
            raise ValueError(
                "ChampionChallenger samples from frozen copies of the policy, which gSDE cannot: set use_sde=False."
            )
        policy: Any = self.model.policy
        if self.fresh_learner and policy.share_features_extractor:
            raise ValueError(
                "ChampionChallenger(fresh_learner=True) makes a policy anew beside critics, and here they share a "
                "features extractor: set share_features_extractor=False."
            )

    def check_run(self, callbacks: list[BaseCallback]) -> None:
        """See :meth:`FineTuningCallback.check_run`."""
        for callback in callbacks:
            if getattr(callback, "reference", None) == "best":
                raise ValueError(
                    f"{type(callback).__name__}(reference='best') follows the evaluations, and beside "
                    "ChampionChallenger these see the champion, not the policy that learns: use reference='champion'."
                )

    def _on_training_start(self) -> None:
        if self.policy is not None and self.n_pretrain_steps != self.model.n_pretrain_steps:
            self.begin_new_run()  # more of it: the champion is older
        super()._on_training_start()
        if self.policy is None:
            return  # there is no offline policy yet
        if self.challenger is None:
            self.challenger = frozen_copy(self.policy)
            self.n_policies = self.champion_number = 1
            self.n_pretrain_steps = self.model.n_pretrain_steps
            self._warn_of_moving_statistics()
        self.challenger.to(self.model.device)
        if self.acting is None:
            self._forget_episodes()  # the policy that learns plays those that are under way

    def _begin(self) -> None:
        if self.fresh_learner:
            self.model.renew_learner()

    def _forget_episodes(self) -> None:
        n_envs = self.model.n_envs
        self.acting, self.rewards = np.zeros(n_envs, dtype=int), np.zeros(n_envs)

    def on_new_episodes(self) -> None:
        """See :meth:`FineTuningCallback.on_new_episodes`."""
        if self.acting is not None:
            self._forget_episodes()
            self._begin_episodes(np.arange(len(self.acting)))

    def renews_critics(self, finished_phases: Sequence[str]) -> bool:
        """See :meth:`FineTuningCallback.renews_critics`."""
        return self.fresh_learner and not self.has_begun

    @property
    def renews_policy(self) -> bool:
        """See :class:`~sb3_o2o.finetuning.reference._FrozenPolicyCallback`."""
        return self.fresh_learner

    def _warn_of_moving_statistics(self) -> None:
        normalizer = self.model.get_vec_normalize_env()
        if normalizer is not None and normalizer.norm_obs and normalizer.training:
            warn(
                "VecNormalize goes on normalising observations otherwise (training=True), so that ChampionChallenger's "
                "champion is no longer the one whose returns were counted: set env.training = False, or fit it first.",
            )

    def _warn_of_endless_episodes(self, has_ended: bool) -> None:
        """Without ends nothing is decided, and the champion plays its first episode for the whole run."""
        self.steps_without_end = 0 if has_ended else self.steps_without_end + 1
        if self.steps_without_end == _LONG_EPISODE:
            warn(
                f"No episode has ended in {_LONG_EPISODE:,} steps of each environment. ChampionChallenger compares "
                "whole episodes, and until one ends the learner does not act: give the environment a time limit "
                "(gymnasium.make(..., max_episode_steps=1000)).",
            )

    # -- who acts --------------------------------------------------------------------------------------------------

    def act(self, observations: np.ndarray | dict[str, np.ndarray]) -> np.ndarray | None:
        """
        :param observations: ``(n_envs, *obs)``
        :return: in each environment the actions of who plays there; those of the policy that learns explore
        """
        if self.acting is None:
            return None
        champions, explores = self.acting == self.champion_number, self.acting == 0
        actions = np.empty((len(self.acting), self.model.action_dim), np.float32)
        if explores.any():
            actions[explores] = self._exploring(observations)[explores]
        for network, rows in ((self.policy, champions), (self.challenger, ~champions & ~explores)):
            if rows.any():
                actions[rows] = self._scaled_actions(network, observations, True, _DRAW)[rows]
        return self._unscaled(actions)

    def _exploring(self, observations: Any) -> np.ndarray:
        """:return: as the algorithm explores, in [-1, 1], ``(n_envs, act)``; NaN where it acts at random at first"""
        model: Any = self.model
        if model.num_timesteps < model.learning_starts:
            return np.full((len(self.acting), model.action_dim), np.nan, np.float32)  # type: ignore[arg-type]
        model.policy.set_training_mode(False)
        actions = self._scaled_actions(self._network(), observations, False, _DRAW)
        if model.action_noise is None:
            return actions
        noise = np.reshape(model.action_noise(), (-1, model.action_dim))
        return np.clip(actions + noise, -1.0, 1.0)

    def predict(self, observations: np.ndarray | dict[str, np.ndarray], deterministic: bool) -> np.ndarray | None:
        """See :meth:`FineTuningCallback.predict`; the champion's, once there is one."""
        if self.exported_actor() is None:
            return None
        self.policy.to(self.model.device)
        _, are_several = self.model.policy.obs_to_tensor(observations)
        actions = self._unscaled(self._scaled_actions(self.policy, observations, deterministic, _DRAW))
        return actions if are_several else actions[0]

    def exported_actor(self) -> nn.Module | None:
        """See :meth:`FineTuningCallback.exported_actor`: the champion, unless there is a newer pre-trained policy."""
        is_older = self.n_pretrain_steps != self.model.n_pretrain_steps
        champion: nn.Module | None = None if is_older else self.policy
        return champion

    # -- who wins --------------------------------------------------------------------------------------------------

    def _on_step(self) -> bool:
        if self.acting is None or self.rewards is None:
            return True
        normalizer = self.model.get_vec_normalize_env()
        self.rewards += self.locals["rewards"] if normalizer is None else normalizer.get_original_reward()
        ended = np.flatnonzero(self.locals["dones"])
        self._warn_of_endless_episodes(bool(len(ended)))
        for env in ended:
            if self.acting[env] == self.challenger_number != 0:
                self.logger.record_mean("finetune/challenger_return", self.rewards[env])
            self._take_return(int(self.acting[env]), float(self.rewards[env]))
        if len(ended):
            self.rewards[ended] = 0.0
            self._begin_episodes(ended)
            self.logger.record("finetune/champion_return", float(np.mean(self.champion_returns or [math.nan])))
            self.logger.record("finetune/champion_number", self.champion_number)
        return True

    def _take_return(self, number: int, episode_return: float) -> None:
        """An episode has ended that policy ``number`` began; those of policies that are gone count for nobody."""
        if number == 0:
            return  # with exploration, and while it learned
        if number == self.champion_number:
            self.champion_returns.append(episode_return)
        elif number == self.challenger_number:
            self.challenger_returns.append(episode_return)
        else:
            return
        if self.challenger_returns:
            self._judge()

    def _judge(self) -> None:
        verdict = self.verdict()
        if verdict == "champion":
            self.policy.load_state_dict(self.challenger.state_dict())
            self.champion_number, self.champion_returns = self.challenger_number, self.challenger_returns
        if verdict != "open":
            self.challenger_number, self.challenger_returns = 0, []

    def verdict(self) -> Literal["champion", "beaten", "open"]:
        """:return: what becomes of the challenger after the episodes that both have played"""
        statistic = challenge_statistic(self.champion_returns, self.challenger_returns)
        leads = np.mean(self.challenger_returns) > np.mean(self.champion_returns)
        is_last = min(len(self.challenger_returns), len(self.champion_returns)) >= self.episodes
        if leads and statistic >= self.confidence * (_LAST_PART if is_last else 1.0):
            return "champion"
        return "open" if leads and not is_last else "beaten"

    def _begin_episodes(self, envs: np.ndarray) -> None:
        """Decide who plays the episodes that begin."""
        assert self.acting is not None
        for env in envs:
            self.acting[env] = (
                0 if np.delete(self.acting, env).any() else self._next(had_explored=self.acting[env] == 0)
            )

    def _next(self, had_explored: bool) -> int:
        """:return: number of who plays the next episode in an environment, where no other is measured"""
        if len(self.champion_returns) < _FIRST_EPISODES:
            return self.champion_number
        if self.challenger_number != 0:
            is_behind = len(self.champion_returns) < len(self.challenger_returns)
            return self.champion_number if is_behind else self.challenger_number
        if not had_explored:
            return 0  # after an episode that is measured the learner explores in one
        return self.champion_number if np.random.random() < self.champion_share else self._challenger()

    def _challenger(self) -> int:
        """:return: the number of the newest policy, which challenges; 0 if it has not moved"""
        if not (self._is_newest(self.challenger) or self._is_newest(self.policy)):
            self.challenger.load_state_dict(self._network().state_dict())
            self.n_policies += 1
            self.challenger_number = self.n_policies
        return self.challenger_number

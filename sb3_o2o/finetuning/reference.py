"""Policies that others are held against."""

from __future__ import annotations

import copy
import math
from typing import Any, ClassVar, Literal

import numpy as np
import torch as th
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback
from stable_baselines3.common.evaluation import evaluate_policy
from torch import nn

from sb3_o2o.checked import checked
from sb3_o2o.errors import warn
from sb3_o2o.evaluation.eval_callback import NormalizedEvalCallback
from sb3_o2o.evaluation.evaluate import acting_in, evaluate, synchronise_normalizer
from sb3_o2o.finetuning.callback import FineTuningCallback, exported_actor
from sb3_o2o.kinds import Count
from sb3_o2o.networks import frozen_copy

#: when the reference changes; a champion needs a replay buffer
Choice = Literal["best", "interval"]
OffPolicyChoice = Literal["best", "champion", "interval"]
AnyChoice = Literal["best", "champion", "interval", "polyak"]


class _FrozenPolicyCallback(FineTuningCallback):
    """Keeps a policy that nothing trains. It begins as the one with which ``learn`` starts, and lives in the zip."""

    #: the frozen policy; None before the first ``learn`` of a run
    policy: Any
    #: it has to be an offline one, or the method makes no sense
    must_be_trained: ClassVar[bool] = True
    #: the policy is frozen, and what the run begins with is still to be made
    begins: bool = False

    def begin_new_run(self) -> None:
        """See :meth:`FineTuningCallback.begin_new_run`."""
        self.policy, self.begins = None, False

    @property
    def has_begun(self) -> bool:
        """Whether the policy is frozen, and what the run begins with has been made."""
        return self.policy is not None and not self.begins

    @property
    def renews_policy(self) -> bool:
        """Whether the policy that learns is made anew where the run begins."""
        return False

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__()
        if self.policy is not None:
            state["policy"] = copy.deepcopy(self.policy).cpu()  # so that a saved model loads on any machine
        return state

    def _on_training_start(self) -> None:
        model: Any = self.model
        if model.n_pretrain_steps < model.pretrain_steps:
            return  # pre-training was stopped: there is no offline policy yet, and this ``learn`` ends here
        if self.policy is None:
            self._freeze_all()
        self.policy.to(model.device)
        if self.begins:
            self.begins = False
            self._begin()

    def _freeze_all(self) -> None:
        """Whatever their order: one of them may make the policy that learns anew, and all keep the one before."""
        model: Any = self.model
        for each in (self, *model.call.callbacks):
            if isinstance(each, _FrozenPolicyCallback) and each.policy is None:
                each._warn_of_untrained()
                each._take_policy()
                each.begins = True

    def _warn_of_untrained(self) -> None:
        model: Any = self.model
        if self.must_be_trained and not (model.policy_was_given or model.n_pretrain_steps or model._n_updates):
            warn(
                f"{type(self).__name__} freezes the policy with which this run begins, and nothing has trained it: "
                "pretrain first, or start from a policy with load_offline.",
            )

    def _begin(self) -> None:
        """What is made anew where a run begins, once the policy is frozen."""

    def _take_policy(self, network: nn.Module | None = None) -> None:
        """Freeze the policy as it is now, or another network."""
        network = self._network() if network is None else network
        if self.policy is None:
            self.policy = frozen_copy(network)
        else:
            # in place: compiled updates hold on to the network
            self.policy.load_state_dict(network.state_dict())

    def offline_actions(self, observations: Any, deterministic: bool = False) -> np.ndarray:
        """
        :param observations: ``(n_envs, *obs)``, normalised as the policy sees them
        :param deterministic: its most likely actions instead of samples
        :return: what the frozen policy does, within the action space, ``(n_envs, *act)``
        """
        return self._unscaled(self._scaled_actions(self.policy, observations, deterministic, "offline_policy"))

    @th.no_grad()
    def _scaled_actions(self, network: nn.Module, observations: Any, deterministic: bool, draw: str) -> np.ndarray:
        """:return: of an actor, in [-1, 1], ``(n, act)``; samples from the random numbers that ``draw`` names"""
        actor: Any = network
        inputs, _ = self.model.policy.obs_to_tensor(observations)
        if deterministic or not actor.stochastic:
            actions = actor.mode(inputs)
        else:
            rows = len(next(iter(inputs.values())) if isinstance(inputs, dict) else inputs)
            actions, _ = actor.rsample(inputs, self.model.draws.normal(draw, (rows, self.model.action_dim)))
        scaled: np.ndarray = actions.clamp(-1.0, 1.0).cpu().numpy()
        return scaled

    def _unscaled(self, actions: np.ndarray) -> np.ndarray:
        """:return: actions in [-1, 1] as the environment has them, ``(n, *act)``"""
        policy: Any = self.model.policy
        unscaled: np.ndarray = policy.unscale_action(actions.reshape(-1, *policy.action_space.shape))
        return unscaled

    def _network(self) -> nn.Module:
        """What is frozen."""
        actor: Any = self.model.policy.actor
        return actor

    def _is_newest(self, network: nn.Module) -> bool:
        """Whether the actor is what a frozen network is; PPO's has a critic too, which does not count."""
        return _are_equal(self._network(), network)


class _ReferenceCallback(_FrozenPolicyCallback):
    """
    Keeps a frozen policy that online updates may refer to. It begins as the policy with which ``learn`` starts, and
    lives in the zip.

    :param reference: ``"best"``: whenever the run's evaluation callback finds a better mean return than ever before,
        the policy that earned it takes over; ``"champion"``: that of :class:`ChampionChallenger`, so that no
        evaluation's score is used; ``"interval"``: the current policy takes over again and again
    :param interval: environment steps between two of them, for ``"interval"``, > 0
    """

    must_be_trained = False

    @checked
    def __init__(self, reference: AnyChoice = "best", interval: Count = 1000):
        super().__init__()
        self.reference = reference
        self.interval = interval
        self.begin_new_run()

    def begin_new_run(self) -> None:
        """See :meth:`FineTuningCallback.begin_new_run`."""
        super().begin_new_run()
        self.best_score = -math.inf
        self.taken_at = 0
        self.n_taken = 0
        self._began_as_reference = False
        self._n_evaluations = 0

    def check_run(self, callbacks: list[BaseCallback]) -> None:
        """See :meth:`FineTuningCallback.check_run`."""
        if self.reference == "best":
            self._evaluation(callbacks)
        elif self.reference == "champion" and not any(_has_champion(callback) for callback in callbacks):
            raise ValueError(
                f"{type(self).__name__}(reference='champion') follows a champion, and this run has none: add "
                "ChampionChallenger() to finetuning, or use reference='interval'."
            )

    def _on_training_start(self) -> None:
        model: Any = self.model
        if model.n_pretrain_steps < model.pretrain_steps:
            return  # pre-training was stopped: there is no offline policy yet, and this ``learn`` ends here
        super()._on_training_start()
        if self.reference == "best" and not model.call.goes_on:  # what goes on has begun before
            self._began_as_reference = self._is_newest(self.policy)

    def _on_rollout_start(self) -> None:
        """
        The first scores, before the first step: of the policy with which ``learn`` started, or the first policy that
        Stable-Baselines3's callback evaluates would win unopposed; and of what the phases before collecting have made
        of it, which takes over if it is better.
        """
        if self.reference != "best":
            return
        evaluation = self._evaluation(self.model.call.callbacks)  # type: ignore[attr-defined]
        self._n_evaluations = _n_evaluations(evaluation)
        if self.best_score > -math.inf:
            return
        if self._began_as_reference and evaluation.evaluations_timesteps == [self.num_timesteps]:
            self.best_score = float(evaluation.last_mean_reward)  # it was evaluated as ``learn`` started
        else:
            self.best_score = self._score(evaluation, self.policy.state_dict())
        if not self._is_newest(self.policy):
            self._judge(self._score(evaluation, self._network().state_dict()))

    def _score(self, evaluation: EvalCallback, parameters: dict[str, Any]) -> float:
        """:return: mean return of a policy, as the evaluation callback would find it"""
        network = self._network()
        now = copy.deepcopy(network.state_dict())
        with th.random.fork_rng(devices=[]):  # actions may be sampled, and not from the training's random numbers
            try:
                network.load_state_dict(parameters)
                synchronise_normalizer(evaluation.training_env, evaluation.eval_env)
                return _mean_return(self.model, evaluation)
            finally:
                network.load_state_dict(now)

    def _on_rollout_end(self) -> None:
        if self.reference == "interval":
            if self.model.n_finetuning_steps - self.taken_at >= self.interval:
                self._take_policy()
        elif self.reference == "champion":
            champion = exported_actor(self.model)
            if champion is not None and not _are_equal(champion, self.policy):
                self._take_policy(champion)
        elif self.reference == "best":
            self._judge_evaluation()

    def _on_training_end(self) -> None:
        if self.reference == "best" and self.best_score > -math.inf:
            self._judge_evaluation()  # a callback may have stopped the run at that of its last step

    def _judge_evaluation(self) -> None:
        # evaluations run in the steps of a rollout, and the policy has not moved since
        evaluation = self._evaluation(self.model.call.callbacks)  # type: ignore[attr-defined]
        if _n_evaluations(evaluation) > self._n_evaluations:  # its best score may be another run's
            self._n_evaluations = _n_evaluations(evaluation)
            self._judge(float(evaluation.last_mean_reward))

    def _judge(self, score: float) -> None:
        if score > self.best_score:
            self.best_score = score
            self._take_policy()

    def _take_policy(self, network: nn.Module | None = None) -> None:
        super()._take_policy(network)
        self.taken_at = self.model.n_finetuning_steps
        self.n_taken += 1
        self.logger.record("finetune/reference_updates", self.n_taken - 1)

    def _evaluation(self, callbacks: list[BaseCallback]) -> EvalCallback:
        for callback in callbacks:
            if isinstance(callback, EvalCallback):
                return callback
        calls = max(self.interval // self.model.n_envs, 1)  # one for a step of all environments
        raise ValueError(
            f"{type(self).__name__}(reference='best') follows the scores of an evaluation callback, and this run has "
            f"none: add learn(callback=EvalCallback(eval_env, eval_freq={calls})), or use reference='interval'."
        )


def _has_champion(callback: BaseCallback) -> bool:
    """Whether another policy acts for users than the one that learns."""
    return isinstance(callback, FineTuningCallback) and callback.exports_another_actor()


def _are_equal(first: nn.Module, second: nn.Module) -> bool:
    """Whether two policies have the same parameters; PPO's have a critic too, which does not count."""
    some, others = (getattr(each, "actor_parameters", each.parameters)() for each in (first, second))
    return all(th.equal(one, other) for one, other in zip(some, others, strict=True))


def _n_evaluations(evaluation: EvalCallback) -> int:
    """How often a callback has evaluated, in all runs; a score alone does not tell whether it is new."""
    return evaluation.n_calls // evaluation.eval_freq if evaluation.eval_freq > 0 else 0


def _mean_return(model: Any, evaluation: EvalCallback) -> float:
    """What an evaluation callback would find now: on its own episodes where it seeds them."""
    env, n_episodes, deterministic = evaluation.eval_env, evaluation.n_eval_episodes, evaluation.deterministic
    if isinstance(evaluation, NormalizedEvalCallback):
        result = evaluate(model, env, n_episodes, deterministic=deterministic, seed=evaluation.seed)
        return float(result.returns.mean())
    acting = acting_in(model, env)
    mean, _ = evaluate_policy(acting, env, n_eval_episodes=n_episodes, deterministic=deterministic, warn=False)
    return float(mean)  # type: ignore[arg-type]

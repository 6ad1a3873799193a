"""Actor-critic alignment: critics that begin with what the offline policy knows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch as th
from stable_baselines3.common.callbacks import BaseCallback

from sb3_o2o.checked import checked
from sb3_o2o.finetuning.callback import FineTuningCallback
from sb3_o2o.finetuning.dual_critic import DualCritic
from sb3_o2o.finetuning.reconstruction import _GradientPhase
from sb3_o2o.finetuning.reference import _FrozenPolicyCallback
from sb3_o2o.kinds import Count, NotNegative, Positive
from sb3_o2o.objectives import SACMLObjective
from sb3_o2o.objectives import finetuning_functional as FF

if TYPE_CHECKING:
    from sb3_o2o.objectives import Batch


class ActorCriticAlignment(_FrozenPolicyCallback):
    """
    ACA (Yu and Zhang 2023): values are written as ``Q(s, a) = R(s, a) + w l(s, a)``, where l is the offline policy's
    log-density, bounded from below, and R is what the critics learn. A policy that was trained offline is then the best
    response to its critics from the first step on, whatever they are: R begins with no slope along the action, and the
    temperature at w::

        l(s, a) = softplus(log pi_0(a|s) - c) + c,   c = min log pi_0 at mean +- k std
        R(s, a) is fitted to  r + gamma (1 - d) (min [Rb(s', a')] + w l(s', a') - alpha log pi(a'|s')) - w l(s, a)
        the actor maximises   min R(s, a) + w l(s, a) - alpha log pi(a|s)

    w falls with the environment steps, so that the critics come to stand for themselves.

    R begins as the network Z(s) that the paper's pre-training fits to the soft Bellman equation
    (:class:`~sb3_o2o.objectives.SACMLObjective`, ``objective="sac_ml"``), with the weights of the action in its first
    layer at zero. Where something else has made the policy there is no Z, and R starts afresh, without that slope all
    the same: what Z would have known it learns online.

    :param weight: w at the first step of the fine-tuning run, >= 0
    :param end_weight: from ``anneal_steps`` on, >= 0; 0.5 for medium data and mazes, 1 for expert data, 0 for random
    :param anneal_steps: environment steps in between, > 0; 40,000 for medium data
    :param n_stds: k, > 0; 7 for medium data, 15 for expert data, 3 for mazes
    :param fresh_critics: begin with R as above; False goes on with the offline critics as they are
    :param ent_coef: temperature with which the run begins, where it is tuned, > 0; 1 in the code, as ``weight`` is.
        None goes on with the model's
    :raises ValueError: for a number out of range, a policy without a density, or beside a callback that would undo it
    """

    exclusive = ("what the critics' values are made of",)

    @checked
    def __init__(
        self,
        weight: NotNegative = 1.0,
        end_weight: NotNegative = 0.5,
        anneal_steps: Count = 40_000,
        n_stds: Positive = 7.0,
        fresh_critics: bool = True,
        ent_coef: Positive | None = 1.0,
    ):
        super().__init__()
        self.weight, self.end_weight, self.anneal_steps = weight, end_weight, anneal_steps
        self.n_stds = n_stds
        self.fresh_critics = fresh_critics
        self.ent_coef = ent_coef
        #: of the step, as a tensor: a number that changes would be compiled anew
        self.current_weight = th.full((), float(weight))
        self.begin_new_run()

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "current_weight": self.current_weight.cpu()}

    def renews_critics(self, finished_phases: Sequence[str]) -> bool:
        """See :meth:`FineTuningCallback.renews_critics`."""
        return self.fresh_critics and not self.has_begun

    def starts_ent_coef(self, finished_phases: Sequence[str]) -> float | None:
        """See :meth:`FineTuningCallback.starts_ent_coef`."""
        return self.ent_coef

    def _init_callback(self) -> None:
        model: Any = self.model
        if not model.actor.stochastic or model.use_sde:
            raise ValueError(
                "ActorCriticAlignment needs the density of a Gaussian policy, which deterministic policies and gSDE do "
                "not have."
            )

    def check_run(self, callbacks: list[BaseCallback]) -> None:
        """See :meth:`FineTuningCallback.check_run`."""
        finished = self.model.finished_phases
        if not self.renews_critics(finished):
            return
        for each in callbacks:
            name = type(each).__name__
            if isinstance(each, _GradientPhase) and each.phase not in finished:
                raise ValueError(
                    f"ActorCriticAlignment begins with critics of its own, which {name} would replace by others before "
                    "the first step: leave one of them out."
                )
        for each in callbacks[callbacks.index(self) + 1 :] if self in callbacks else ():
            renews = isinstance(each, FineTuningCallback) and each.renews_critics(finished)
            if renews or isinstance(each, DualCritic):  # which would mix whole values with a part of others
                name = type(each).__name__
                raise ValueError(
                    f"{name} after ActorCriticAlignment would undo what that makes of the critics: put "
                    "ActorCriticAlignment last in the list."
                )

    def _on_training_start(self) -> None:
        super()._on_training_start()
        self.current_weight = self.current_weight.to(self.model.device)

    @th.no_grad()
    def _begin(self) -> None:
        """The temperature, and critics without a slope along the action: Z where there is one, else fresh."""
        model: Any = self.model
        if self.ent_coef is not None and model.log_ent_coef is not None:
            model.set_ent_coef(self.ent_coef)
        if not self.fresh_critics:
            return
        model.renew_critics()
        ensemble = model.critic.ensemble
        first = ensemble.layers[0]
        first.weight[:, -model.action_dim :] = 0.0
        if isinstance(model.offline_objective, SACMLObjective):
            learned = model.offline_objective.partition.state_dict()
            weight = learned.pop("layers.0.weight")
            first.weight[:, : weight.shape[1]] = weight
            ensemble.load_state_dict({**ensemble.state_dict(), **learned})
            # what Z reads
            model.critic.features_extractor.load_state_dict(model.actor.features_extractor.state_dict())
        model.copy_to_targets()

    def before_updates(self) -> None:
        """The weight is that of the step."""
        progress = min(self.model.n_finetuning_steps / self.anneal_steps, 1.0)
        self.current_weight.fill_(self.weight + (self.end_weight - self.weight) * progress)

    def aligned(self, observations: Any, actions: th.Tensor) -> th.Tensor:
        """
        :param observations: ``(B, *obs)``
        :param actions: in [-1, 1], ``(B, act)``
        :return: w l(s, a), ``(B,)``
        """
        policy = self.policy
        mean, log_std, _ = policy.get_action_dist_params(observations)
        # of samples that lie there: as actions they may be out of bounds, where densities of given ones are clipped
        far = (policy.sample(mean, log_std, th.full_like(mean, side * self.n_stds)) for side in (-1.0, 1.0))
        floor = th.minimum(*(log_prob for _, log_prob in far))
        return self.current_weight * FF.soft_floor(policy.density(mean, log_std, actions), floor)

    def next_values(self, values: th.Tensor, actions: th.Tensor, log_prob: th.Tensor | None, batch: Batch) -> th.Tensor:
        """See :meth:`FineTuningCallback.next_values`."""
        return values + self.aligned(batch.next_observations, actions)

    def td_target(self, target: th.Tensor, batch: Batch) -> th.Tensor:
        """See :meth:`FineTuningCallback.td_target`."""
        return target - self.aligned(batch.observations, batch.actions)

    def actor_values(self, values: th.Tensor, actions: th.Tensor, batch: Batch) -> th.Tensor:
        """See :meth:`FineTuningCallback.actor_values`."""
        return values + self.aligned(batch.observations, actions)

"""SAC with a likelihood term, and the partition function of its policy: what ACA pre-trains with."""

from __future__ import annotations

from typing import Any, ClassVar

import torch as th
from stable_baselines3.common.type_aliases import PyTorchObs

from sb3_o2o.checked import checked
from sb3_o2o.kinds import InnerFraction, NotNegative
from sb3_o2o.networks.ensemble import EnsembleMLP
from sb3_o2o.networks.optimizers import FusedAdam
from sb3_o2o.objectives import functional as F
from sb3_o2o.objectives.batch import Batch, LossesAndMetrics
from sb3_o2o.objectives.bc import check_imitation
from sb3_o2o.objectives.learner import SACLearner
from sb3_o2o.objectives.objective import CriticReduction, SACObjective
from sb3_o2o.search_space import Range, SearchSpace


class SACMLObjective(SACObjective):
    """
    SAC+ML (Yu and Zhang 2023, as in the code of ACA): soft actor-critic whose actor also maximises the likelihood of
    the batch's actions, its own loss weighted by ``lambda = k / mean |Q|``::

        L_pi = lambda (alpha log pi(b|s) - min Q(s, b)) - log pi(a|s),   b ~ pi

    Beside it as many networks Z(s) as there are critics learn what is missing from the policy's log-density to soft
    values, so that ``log pi(a|s) + Z(s)`` satisfies the soft Bellman equation::

        log pi(a|s) + Z_i(s)  is fitted to  r + gamma (1 - d) (log pi(a'|s') + min_j Z_j(s') - alpha log pi(a'|s'))

    Z has no target networks and trains neither policy nor features.
    :class:`~sb3_o2o.finetuning.ActorCriticAlignment` begins its critics as these networks, which are made as critics
    are, with inputs for the state alone. Z is a fact about the policy: it goes on where critics are thrown away.

    :param model: the algorithm whose networks are trained
    :param value_weight: k, of the values against the likelihood, >= 0; 0 clones
    :param action_clip: largest action magnitude that is scored, in (0, 1)
    :param critic_reduction: see :func:`~sb3_o2o.objectives.functional.ensemble_mse`, of the critics and of Z; the sum
        in the code
    :raises ValueError: for a number out of range, or a policy without a density
    """

    critic_like: ClassVar[tuple[str, ...]] = ("partition",)
    search_space: ClassVar[SearchSpace] = {"value_weight": Range(3.0, 100.0, log=True)}

    @checked
    def __init__(
        self,
        model: SACLearner,
        *,
        value_weight: NotNegative = 30.0,
        action_clip: InnerFraction = 1 - 1e-6,
        critic_reduction: CriticReduction = "sum",
    ):
        super().__init__(model, critic_reduction=critic_reduction)
        check_imitation(model, "sac_ml", None, "likelihood")
        self.value_weight = value_weight
        self.action_clip = action_clip
        kwargs = model.policy.critic_kwargs
        #: Z, a member for each critic
        self.partition = EnsembleMLP(
            model.actor.features_extractor.features_dim,
            kwargs["net_arch"],
            model.n_critics,
            kwargs["activation_fn"],
            **{name: value for name, value in model.policy.layer_arguments("critic").items() if name != "precision"},
        ).to(model.device)
        self.optimizers["partition"] = FusedAdam(self.partition.parameters(), lr=model.qf_lr_schedule(1.0))
        self.follows["partition"] = "critic"

    def partition_values(self, observations: PyTorchObs) -> th.Tensor:
        """
        :param observations: ``(B, *obs)``
        :return: Z of every member, ``(N, B)``
        """
        actor = self.model.actor
        with th.no_grad():
            features = actor.extract_features(observations, actor.features_extractor)
        return self.partition(features, features[:, :0])

    def keep_first(self, n_critics: int) -> None:
        """See :meth:`Objective.keep_first`."""
        self.partition.keep_first(n_critics, self.optimizers["partition"])

    def critic_draws(self, batch: Batch) -> tuple[th.Tensor | None, ...]:
        """See :meth:`SACObjective.critic_draws`; the last is the noise of Z's next actions."""
        return *super().critic_draws(batch), self.noise("partition_policy", batch.next_observations)

    def critic_losses(  # type: ignore[override]
        self,
        batch: Batch,
        noise: th.Tensor,
        members: th.Tensor | None,
        partition_noise: th.Tensor,
        ent_coef: th.Tensor,
    ) -> LossesAndMetrics:
        """
        :param batch: transitions
        :param noise: see :meth:`SACObjective.critic_losses`
        :param members: likewise
        :param partition_noise: standard normal draws for the next actions of Z's target, ``(B, act)``
        :param ent_coef: temperature, ``(1,)``
        :return: the losses of critics and Z
        """
        losses, metrics = super().critic_losses(batch, noise, members, ent_coef)
        target = self.partition_target(batch, partition_noise, ent_coef)
        loss = F.ensemble_mse(self.partition_values(batch.observations), target, self.critic_reduction)
        return {**losses, "partition": loss}, metrics

    @th.no_grad()
    def partition_target(self, batch: Batch, noise: th.Tensor, ent_coef: th.Tensor) -> th.Tensor:
        """
        :param batch: transitions
        :param noise: standard normal draws for the next actions, ``(B, act)``
        :param ent_coef: temperature, ``(1,)``
        :return: what Z is fitted to: the soft Bellman target less the log-density of the batch's actions, ``(B,)``
        """
        actor = self.model.actor
        _, log_prob = actor.rsample(batch.next_observations, noise)
        smallest = F.reduce_ensemble(self.partition_values(batch.next_observations), "min")
        values = log_prob + smallest - ent_coef * log_prob
        target = F.bellman_target(batch.rewards, batch.dones, batch.discounts, values)
        return target - actor.log_prob(batch.observations, batch.actions, self.action_clip)

    def actor_loss(
        self, batch: Batch, noise: th.Tensor | None, ent_coef: th.Tensor
    ) -> tuple[dict[str, th.Tensor], dict[str, th.Tensor], th.Tensor]:
        """See :meth:`SACObjective.actor_loss`."""
        model: Any = self.model
        hooks = model.hooks
        actions, log_prob = model.actor.rsample(batch.observations, noise)
        values = F.reduce_ensemble(model.critic.q_values(batch.observations, actions), self.actor_reduction)
        values = hooks.actor_values(values, actions, batch)
        likelihood = model.actor.log_prob(batch.observations, batch.actions, self.action_clip)
        loss, weight = F.sac_ml_loss(values, ent_coef * log_prob, likelihood, self.value_weight)
        losses, metrics = hooks.actor_losses(loss, actions, log_prob, batch)
        return losses, {**metrics, "q_weight": weight, "log_likelihood": likelihood.detach().mean()}, log_prob

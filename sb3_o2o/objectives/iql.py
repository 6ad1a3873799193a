"""Implicit Q-learning."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, ClassVar

import torch as th
from stable_baselines3.common.type_aliases import PyTorchObs

from sb3_o2o.checked import checked
from sb3_o2o.kinds import Count, InnerFraction, NotNegative, Positive
from sb3_o2o.networks.optimizers import FusedAdam
from sb3_o2o.networks.value import ValueNetwork
from sb3_o2o.objectives import functional as F
from sb3_o2o.objectives.batch import Batch, LossesAndMetrics, Step, joined
from sb3_o2o.objectives.bc import Imitation, check_imitation
from sb3_o2o.objectives.learner import CriticLearner, CriticSet
from sb3_o2o.objectives.objective import UNUSED, CriticReduction, Objective
from sb3_o2o.search_space import Range, SearchSpace


class IQLObjective(Objective):
    """
    Implicit Q-learning (Kostrikov et al. 2021), wired as in CORL: V regresses to an upper expectile of the target
    critics' minimum, the critics to ``r + gamma V(s')``, and the policy imitates the batch's actions, weighted by
    ``exp(beta A)``. V(s') and the advantage are those before V's step. Nothing asks for the value of an action that
    is not in the batch.

    CORL's Gaussian policy squashes its *mean* and not its samples, and learns one standard deviation for all states:
    ``policy_kwargs={"squash": "mean", "state_dependent_std": False}``. SAC's own squashes the samples, so that the same
    weights meet another likelihood, above all near the bounds. A deterministic actor, as TD3's, minimises ``w |pi(s) -
    a|^2``, as CORL's deterministic variant does, and moves at every update with all target networks: TD3's
    ``policy_delay`` is none of IQL's.

    V reads the critics' features and does not train them, as an actor and critics with a shared extractor do.

    A second set of critics Q2 has a V2 of its own, and both learn by the same two losses: V2 from the minimum of Qb2,
    Q2 from ``r + discount (1 - d) V2(s')``. The hook ``advantages`` may change what the weights are made of.

    :param model: the algorithm whose networks are trained
    :param expectile: of the values, in (0, 1)
    :param beta: inverse temperature of the weights, >= 0
    :param max_weight: largest weight of a transition, > 0
    :param policy_loss: ``"likelihood"`` or ``"mse"``; by default the first where the policy has a density
    :param action_clip: largest action magnitude that is scored, in (0, 1)
    :param actor_cosine: while pre-training, the actor's learning rate follows half a cosine down to 0. Online it is
        constant: in CORL, where the schedule has the offline phase's length, it rises again
    :param gumbel_temperature: V is fitted by extreme Q-learning's loss with this temperature, > 0, in place of the
        expectile, see :func:`~sb3_o2o.objectives.functional.gumbel_loss`
    :param value_learning_rate: V's; the critics' by default
    :param value_net_arch: units per hidden layer of V; the critics' by default
    :param critic_reduction: see :func:`~sb3_o2o.objectives.functional.ensemble_mse`; the mean in CORL
    """

    value_networks: ClassVar[tuple[str, ...]] = ("value",)
    unused_hooks: ClassVar[tuple[str, ...]] = ("next_actions", "next_values", "td_target", "actor_values")
    #: over the critics, of the values that V is fitted to and advantages are made of
    actor_reduction: ClassVar[str] = "min"
    search_space: ClassVar[SearchSpace] = {"expectile": Range(0.6, 0.95), "beta": Range(0.5, 10.0, log=True)}

    @checked
    def __init__(
        self,
        model: CriticLearner,
        *,
        expectile: InnerFraction = 0.7,
        beta: NotNegative = 3.0,
        max_weight: Positive = 100.0,
        policy_loss: Imitation | None = None,
        action_clip: InnerFraction = 1 - 1e-5,
        actor_cosine: bool = False,
        gumbel_temperature: Positive | None = None,
        value_learning_rate: Positive | None = None,
        value_net_arch: list[Count] | None = None,
        critic_reduction: CriticReduction = "mean",
    ):
        super().__init__(model)
        self.policy_loss = check_imitation(model, "iql", "policy_loss", policy_loss)
        self.expectile = expectile
        self.beta = beta
        self.max_weight = max_weight
        self.action_clip = action_clip
        self.actor_cosine = actor_cosine
        self.gumbel_temperature = gumbel_temperature
        self.critic_reduction = critic_reduction
        self._net_arch = None if value_net_arch is None else list(value_net_arch)
        self.overrides.update(critic_subset=None, actor_critics=UNUSED, entropy_backup=False)
        if not model.actor.stochastic:
            # the delay and the smoothing of target actions are parts of TD3
            self.delayed = False
            self.overrides.update(policy_delay=1, actor_batch="minibatch")
            self.overrides.update(target_policy_noise=UNUSED, target_noise_clip=UNUSED)
        self.value = self.new_value_network()
        rate = model.qf_lr_schedule(1.0) if value_learning_rate is None else value_learning_rate
        self.optimizers["value"] = FusedAdam(self.value.parameters(), lr=rate)
        if value_learning_rate is None:
            self.follows["value"] = "critic"

    @property
    def model(self) -> CriticLearner:
        """The algorithm whose networks are trained."""
        return self._model[0]

    def new_value_network(self) -> ValueNetwork:
        """V is made as the critics are."""
        model = self.model
        kwargs = model.policy.critic_kwargs
        return ValueNetwork(
            model.critic.features_extractor.features_dim,
            kwargs["net_arch"] if self._net_arch is None else self._net_arch,
            kwargs["activation_fn"],
            **model.policy.layer_arguments("critic"),
        ).to(model.device)

    def features(self, obs: PyTorchObs) -> th.Tensor:
        """
        :param obs: ``(batch, *obs)``
        :return: what V reads, ``(batch, features_dim)``
        """
        return self.model.critic.features(obs)

    def q_values(self, obs: PyTorchObs, actions: th.Tensor) -> th.Tensor:
        """
        :param obs: ``(batch, *obs)``
        :param actions: in [-1, 1], ``(batch, act)``
        :return: Q of every critic, ``(N, batch)``
        """
        return self.model.critic.q_values(obs, actions)

    def target_q_values(self, obs: PyTorchObs, actions: th.Tensor) -> th.Tensor:
        """
        :param obs: ``(batch, *obs)``
        :param actions: in [-1, 1], ``(batch, act)``
        :return: Q of every target critic, ``(N, batch)``
        """
        return self.model.critic_target.q_values(obs, actions)

    def forget_values(self) -> None:
        """See :meth:`Objective.forget_values`."""
        self.value.load_state_dict(self.new_value_network().state_dict())
        self.optimizers["value"].state.clear()

    def learning_rate_factor(self, name: str, progress_remaining: float) -> float:
        """See :meth:`Objective.learning_rate_factor`."""
        if not self.actor_cosine or name != "actor" or self.model.phase != "pretraining":
            return 1.0
        return 0.5 * (1 + math.cos(math.pi * (1 - progress_remaining)))

    def steps(self, batch: Batch, actor_batch: Batch | None) -> Iterator[Step]:
        """See :meth:`Objective.steps`."""
        if actor_batch is not None and self.model.hooks.defined("imitated_actions"):
            yield Step(self.all_losses, (batch, None, False, None))
            yield Step(self.imitation_losses, (actor_batch, self.penalty_noise(actor_batch)))
            return
        noise = None if actor_batch is None else self.penalty_noise(actor_batch)
        # the advantages of the critics' batch are there already
        apart = None if actor_batch is batch else actor_batch
        yield Step(self.all_losses, (batch, apart, actor_batch is not None, noise))

    def penalty_noise(self, batch: Batch) -> th.Tensor | None:
        """
        :param batch: the actor's transitions
        :return: standard normal draws for the actions that a penalty asks for, ``(B, act)``; None where none does
        """
        is_asked = self.model.actor.stochastic and self.model.hooks.defined("actor_penalty")
        return self.noise("policy", batch.observations) if is_asked else None

    def imitation_losses(self, batch: Batch, noise: th.Tensor | None) -> LossesAndMetrics:
        """
        :param batch: the actor's transitions
        :param noise: see :meth:`penalty_noise`
        :return: the losses of an actor that imitates what a callback shows it, after the step of V and critics
        """
        with th.no_grad():
            batch = batch.with_actions(self.model.hooks.imitated_actions(batch.actions, batch))
            advantages = self.model.hooks.advantages(self.advantages(batch), batch)
        return self.actor_losses(batch, advantages, noise)

    def all_losses(
        self, batch: Batch, apart: Batch | None, with_actor: bool, noise: th.Tensor | None
    ) -> LossesAndMetrics:
        """
        :param batch: transitions for V and the critics
        :param apart: transitions for the actor, if they are others
        :param with_actor: whether the actor steps
        :param noise: standard normal draws for the actions that a penalty asks for, ``(B, act)``
        :return: the losses of V, critics and actor, from the same parameters
        """
        advantages = self.advantages(batch)
        values = self.q_values(batch.observations, batch.actions)
        losses = {
            "value": self.value_loss(advantages).mean(),
            "critic": F.ensemble_mse(values, self.td_target(batch), self.critic_reduction),
        }
        metrics = {"advantage": advantages.detach().mean()}
        if with_actor:
            if apart is not None:
                batch, advantages = apart, self.advantages(apart)
            advantages = self.model.hooks.advantages(advantages.detach(), batch)
            actor_losses, actor_metrics = self.actor_losses(batch, advantages, noise)
            losses, metrics = joined(losses, actor_losses), metrics | actor_metrics
        return losses, metrics

    def value_loss(self, advantages: th.Tensor) -> th.Tensor:
        """
        :param advantages: with V's gradient, ``(B,)``
        :return: what V minimises, ``(B,)``
        """
        if self.gumbel_temperature is not None:
            return F.gumbel_loss(advantages, self.gumbel_temperature)
        return F.expectile_loss(advantages, self.expectile)

    def second_draws(self, batch: Batch) -> tuple[Any, ...]:
        """See :meth:`Objective.second_draws`."""
        return ()

    def second_losses(self, second: CriticSet, batch: Batch, *draws: Any) -> LossesAndMetrics:
        """See :meth:`Objective.second_losses`."""
        advantages, target = self.advantages(batch, second), self.td_target(batch, second)
        values = second.critic.q_values(batch.observations, batch.actions)
        return {
            "second_value": self.value_loss(advantages).mean(),
            "second_critic": F.ensemble_mse(values, target, self.critic_reduction),
        }, {}

    @th.no_grad()
    def td_target(self, batch: Batch, second: CriticSet | None = None) -> th.Tensor:
        """
        :param batch: transitions
        :param second: the critics whose V is asked; the model's own by default
        :return: ``(B,)``
        """
        features, value = (self.features, self.value) if second is None else (second.critic.features, second.value)
        values = value(features(batch.next_observations))  # type: ignore[misc]
        return F.bellman_target(batch.rewards, batch.dones, batch.discounts, values)

    def advantages(self, batch: Batch, second: CriticSet | None = None) -> th.Tensor:
        """
        :param batch: transitions
        :param second: the critics and V that are asked; the model's own by default
        :return: ``min Q(s, a) - V(s)`` of the target critics, with V's gradient, ``(B,)``
        """
        value = self.value if second is None else second.value
        with th.no_grad():
            if second is None:
                values, features = (
                    self.target_q_values(batch.observations, batch.actions),
                    self.features(batch.observations),
                )
            else:
                values = second.critic_target.q_values(batch.observations, batch.actions)
                features = second.critic.features(batch.observations)
        return F.reduce_ensemble(values, self.actor_reduction) - value(features)  # type: ignore[misc]

    def actor_losses(self, batch: Batch, advantages: th.Tensor, noise: th.Tensor | None) -> LossesAndMetrics:
        """
        :param batch: the actor's transitions
        :param advantages: ``(B,)``, not differentiated
        :param noise: see :meth:`all_losses`
        :return: the losses of the actor and of callbacks, and the mean weight of a transition
        """
        actor, hooks = self.model.actor, self.model.hooks
        weights = F.advantage_weights(advantages, self.beta, self.max_weight)
        if self.policy_loss == "likelihood":
            imitation = -actor.log_prob(batch.observations, batch.actions, self.action_clip)
        else:
            imitation = (actor.mode(batch.observations) - batch.actions).pow(2).sum(dim=1)
        loss, metrics = weights * imitation, {"advantage_weight": weights.mean()}
        if not hooks.defined("actor_penalty"):
            return {"actor": loss.mean()}, metrics
        if actor.stochastic:
            actions, log_prob = actor.rsample(batch.observations, noise)
        else:
            actions, log_prob = actor(batch.observations), None
        losses, added = hooks.actor_losses(loss, actions, log_prob, batch)
        return losses, {**added, **metrics}

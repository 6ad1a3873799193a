"""What PPO minimises offline: imitation, implicit Q-learning, and the regression of V to Monte-Carlo returns."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar

import torch as th
from stable_baselines3.common.preprocessing import get_action_dim
from stable_baselines3.common.type_aliases import PyTorchObs
from stable_baselines3.common.utils import update_learning_rate
from torch import nn

from sb3_o2o.checked import checked
from sb3_o2o.kinds import Count, InnerFraction, NotNegative, Positive, number
from sb3_o2o.networks.ensemble import EnsembleMLP
from sb3_o2o.networks.optimizers import FusedAdam
from sb3_o2o.networks.value import ValueNetwork
from sb3_o2o.objectives import functional as F
from sb3_o2o.objectives.awac import AWACObjective
from sb3_o2o.objectives.batch import Batch, LossesAndMetrics, Optimizers, Step
from sb3_o2o.objectives.bc import BCObjective, Imitation
from sb3_o2o.objectives.iql import IQLObjective
from sb3_o2o.objectives.learner import PPOLearner
from sb3_o2o.objectives.objective import MODEL, CriticReduction, Objective


class PPOBCObjective(BCObjective):
    """
    Imitate the dataset's actions with PPO's Gaussian, see :class:`~sb3_o2o.objectives.BCObjective`. There is no
    squashing: the entropy is known in closed form, and the temperature that keeps it above the target entropy belongs
    to the objective. The value network is left alone.

    :param model: the algorithm whose actor is trained
    :param loss: ``"likelihood"`` (default) or ``"mse"``, which leaves the standard deviation as it is
    :param entropy_term: keep the entropy term of the likelihood
    :param target_entropy: H*, of actions on the scale of [-1, 1]; ``-|A|`` by default
    """

    @checked
    def __init__(
        self,
        model: PPOLearner,
        *,
        loss: Imitation | None = None,
        entropy_term: bool = True,
        target_entropy: float | None = None,
    ):
        super().__init__(model, loss=loss, entropy_term=entropy_term)
        self.target_entropy = -float(model.action_dim) if target_entropy is None else target_entropy
        if self.loss == "likelihood" and entropy_term:
            self.log_ent_coef = nn.Parameter(th.zeros(1, device=model.device))
            self.optimizers["ent_coef"] = FusedAdam([self.log_ent_coef], lr=model.qf_lr_schedule(1.0))
            self.follows["ent_coef"] = "actor"

    def steps(self, batch: Batch, actor_batch: Batch | None) -> Iterator[Step]:
        """See :meth:`Objective.steps`."""
        yield Step(self.distance_loss if self.loss == "mse" else self.gaussian_losses, (batch,))

    def gaussian_losses(self, batch: Batch) -> LossesAndMetrics:
        """
        :param batch: transitions
        :return: the losses of actor and temperature
        """
        mean, log_std, _ = self.model.actor.get_action_dist_params(batch.observations)
        loss, entropy = -F.gaussian_log_prob(mean, log_std, batch.actions).mean(), F.gaussian_entropy(log_std).mean()
        if not self.entropy_term:
            return {"actor": loss}, {"entropy": entropy.detach()}
        ent_coef = self.log_ent_coef.detach().exp()
        losses = {
            "actor": (loss - ent_coef * entropy).sum(),
            "ent_coef": F.temperature_loss(self.log_ent_coef, -entropy, self.target_entropy),
        }
        return losses, {"entropy": entropy.detach(), "ent_coef": ent_coef}


class PPOCritics:
    """
    Action values for PPO, which has none: critics and target networks that belong to the objective and read the actor's
    features, which they do not train. What pre-trains the policy asks them; fine-tuning does not.
    """

    model: Any
    critic: EnsembleMLP
    critic_target: EnsembleMLP
    optimizers: Optimizers

    def make_critics(self, n_critics: int, net_arch: list[int] | None, tau: float) -> None:
        """
        :param n_critics: critics in the ensemble, N
        :param net_arch: units per hidden layer; the actor's by default
        :param tau: how fast the target critics follow, in (0, 1]
        """
        self.n_critics, self.tau = n_critics, tau
        self.critic_net_arch = _hidden(self.model) if net_arch is None else list(net_arch)
        self.critic, self.critic_target = self._new_critics(), self._new_critics()
        self.critic_target.load_state_dict(self.critic.state_dict())
        self.optimizers["critic"] = FusedAdam(self.critic.parameters(), lr=self.model.qf_lr_schedule(1.0))

    def _new_critics(self) -> EnsembleMLP:
        input_dim = self.model.policy.features_dim + get_action_dim(self.model.action_space)
        return EnsembleMLP(input_dim, self.critic_net_arch, self.n_critics, nn.ReLU).to(self.model.device)

    def features(self, obs: PyTorchObs) -> th.Tensor:
        """
        :param obs: ``(batch, *obs)``
        :return: of the actor's extractor, which is not trained here, ``(batch, features_dim)``
        """
        with th.no_grad():
            return self.model.policy.actor_features(obs)

    def q_values(self, obs: PyTorchObs, actions: th.Tensor) -> th.Tensor:
        """
        :param obs: ``(batch, *obs)``
        :param actions: in [-1, 1], ``(batch, act)``
        :return: Q of every critic, ``(N, batch)``
        """
        return self.critic(self.features(obs), actions)

    def target_q_values(self, obs: PyTorchObs, actions: th.Tensor, members: th.Tensor | None = None) -> th.Tensor:
        """
        :param obs: ``(batch, *obs)``
        :param actions: in [-1, 1], ``(batch, act)``
        :param members: target critics to evaluate, ``(m,)``; all by default
        :return: Q of target critics, ``(N, batch)``
        """
        return self.critic_target(self.features(obs), actions, members)

    def forget_values(self) -> None:
        """See :meth:`Objective.forget_values`."""
        super().forget_values()  # type: ignore[misc]
        self.critic.load_state_dict(self._new_critics().state_dict())
        self.critic_target.load_state_dict(self.critic.state_dict())
        self.optimizers["critic"].state.clear()

    @th.no_grad()
    def update_targets(self) -> None:
        """Let the target critics follow."""
        th._foreach_lerp_(list(self.critic_target.parameters()), list(self.critic.parameters()), self.tau)


class PPOIQLObjective(PPOCritics, IQLObjective):
    """
    Implicit Q-learning for PPO's actor, see :class:`~sb3_o2o.objectives.IQLObjective`. PPO has no critics: they, their
    target networks and V belong to the objective and read the actor's features. PPO's Gaussian is the one that CORL
    trains if its mean is squashed (``policy_kwargs={"squash_mean": True}``): neither squashes its samples.

    The expectile V is none of PPO's: it belongs to a better policy than the one that acts. O2PPO (OCR-CFT) throws it
    away too, and fits PPO's own V to the returns of the dataset before it fine-tunes.

    :param model: the algorithm whose actor is trained
    :param expectile: see ``IQLObjective``, as for the next six
    :param beta: inverse temperature of the weights
    :param max_weight: largest weight of a transition
    :param policy_loss: ``"likelihood"`` (default) or ``"mse"``
    :param actor_cosine: the actor's learning rate follows half a cosine
    :param value_learning_rate: V's; the critics' by default
    :param critic_reduction: over the critics' losses
    :param n_critics: critics in the ensemble, N
    :param critic_net_arch: units per hidden layer of critics and V; the actor's by default
    :param tau: how fast the target critics follow, in (0, 1]
    """

    value_networks: ClassVar[tuple[str, ...]] = ("value", "critic", "critic_target")

    @checked
    def __init__(
        self,
        model: Annotated[PPOLearner, MODEL],
        *,
        expectile: InnerFraction = 0.7,
        beta: NotNegative = 3.0,
        max_weight: Positive = 100.0,
        policy_loss: Imitation | None = None,
        actor_cosine: bool = False,
        value_learning_rate: Positive | None = None,
        critic_reduction: CriticReduction = "mean",
        n_critics: Count = 2,
        critic_net_arch: list[Count] | None = None,
        tau: Annotated[float, number(above=0, most=1)] = 0.005,
    ):
        super().__init__(
            model,  # type: ignore[arg-type]  # the critics are this objective's own, below
            expectile=expectile,
            beta=beta,
            max_weight=max_weight,
            policy_loss=policy_loss,
            actor_cosine=actor_cosine,
            value_learning_rate=value_learning_rate,
            value_net_arch=_hidden(model) if critic_net_arch is None else critic_net_arch,
            critic_reduction=critic_reduction,
        )
        self.make_critics(n_critics, critic_net_arch, tau)

    def new_value_network(self) -> ValueNetwork:
        policy = self.model.policy
        assert self._net_arch is not None
        return ValueNetwork(policy.features_dim, self._net_arch, nn.ReLU).to(self.model.device)


class PPOAWACObjective(PPOCritics, AWACObjective):
    """
    Advantage-weighted actor-critic for PPO's actor, see :class:`~sb3_o2o.objectives.AWACObjective`; the critics belong
    to the objective. Online, PPO minimises its own. PPO's Gaussian is the one that CORL trains: neither its mean nor
    its samples are squashed.

    :param model: the algorithm whose actor is trained
    :param temperature: see ``AWACObjective``, as for the next two
    :param max_weight: largest weight of a transition
    :param critic_reduction: over the critics' losses
    :param n_critics: critics in the ensemble, N
    :param critic_net_arch: units per hidden layer of the critics; the actor's by default
    :param tau: how fast the target critics follow, in (0, 1]
    """

    value_networks: ClassVar[tuple[str, ...]] = ("critic", "critic_target")

    @checked
    def __init__(
        self,
        model: Annotated[PPOLearner, MODEL],
        *,
        temperature: Positive = 1 / 3,
        max_weight: Positive = 100.0,
        critic_reduction: CriticReduction = "sum",
        n_critics: Count = 2,
        critic_net_arch: list[Count] | None = None,
        tau: Annotated[float, number(above=0, most=1)] = 0.005,
    ):
        super().__init__(
            model,  # type: ignore[arg-type]  # the critics are this objective's own, below
            temperature=temperature,
            max_weight=max_weight,
            critic_reduction=critic_reduction,
        )
        self.make_critics(n_critics, critic_net_arch, tau)

    def draw_members(self) -> th.Tensor | None:
        """See :meth:`AWACObjective.draw_members`; all, PPO has no subsets."""
        return None


def _hidden(model: PPOLearner) -> list[int]:
    net_arch: Any = model.policy.net_arch
    return list(net_arch.get("pi", []) if isinstance(net_arch, dict) else net_arch)


class MonteCarloValueObjective(Objective):
    """
    Fit PPO's own V to the Monte-Carlo returns of the dataset: what re-evaluating an offline policy is for an algorithm
    that has no action values (OCR-CFT, section 4.1 and appendix G.3). The value is that of the policies that
    collected the dataset, not the offline policy's, which is why O2PPO corrects its advantages afterwards.

    Returns end with their episode. Where it was truncated, the present V of the last observation stands for what would
    have come; where it terminated, nothing does. The released code of OCR-CFT lets returns run on into the next episode
    at time limits: that is not copied.

    Batches come from a buffer opened with ``whole_episodes=True``.

    :param model: the algorithm whose value network is trained
    :param learning_rate: 1e-4 in the released code
    :param bootstrap: complete the returns of truncated episodes by V; without it they end there, as if nothing came
    """

    whole_episodes: ClassVar[bool] = True
    unused_hooks: ClassVar[tuple[str, ...]] = (
        "next_actions",
        "next_values",
        "td_target",
        "actor_values",
        "actor_penalty",
    )

    @checked
    def __init__(self, model: PPOLearner, *, learning_rate: Positive = 1e-4, bootstrap: bool = True):
        super().__init__(model)
        self.bootstrap = bootstrap
        # the model's, so that an interrupted phase goes on with its moments
        self.optimizers["value"] = model.reevaluation_optimizer
        update_learning_rate(model.reevaluation_optimizer, learning_rate)

    def steps(self, batch: Batch, actor_batch: Batch | None) -> Iterator[Step]:
        """See :meth:`Objective.steps`."""
        yield Step(self.value_loss, (batch,))

    def value_loss(self, batch: Batch) -> LossesAndMetrics:
        """
        :param batch: transitions that lead to the ends of their episodes
        :return: mean squared distance of V from the returns
        """
        returns = self.returns(batch)
        values = self.model.policy.values(batch.observations)
        return {"value": (values - returns).pow(2).mean()}, {"return": returns.mean()}

    @th.no_grad()
    def returns(self, batch: Batch) -> th.Tensor:
        """
        :param batch: transitions that lead to the ends of their episodes
        :return: Monte-Carlo returns, ``(B,)``
        """
        if not self.bootstrap:
            return batch.rewards
        values = self.model.policy.values(batch.next_observations)
        return F.bellman_target(batch.rewards, batch.dones, batch.discounts, values)

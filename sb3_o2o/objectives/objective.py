"""What a gradient update minimises: the interface of an objective, and plain SAC."""

from __future__ import annotations

from collections.abc import Iterator
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import torch as th
from stable_baselines3.common.type_aliases import PyTorchObs
from torch import nn

from sb3_o2o.checked import checked
from sb3_o2o.kinds import Count, kind
from sb3_o2o.objectives import functional as F
from sb3_o2o.objectives.batch import Batch, LossesAndMetrics, Optimizers, Step, joined
from sb3_o2o.objectives.learner import CriticSet, Learner, SACLearner
from sb3_o2o.search_space import SearchSpace

if TYPE_CHECKING:
    from sb3_o2o.networks.ensemble import EnsembleCritic


#: of an argument that an objective has no use for
UNUSED = object()


#: of each critic's squared errors, over the critics
CriticReduction = Literal["half_sum", "sum", "mean"]
#: over the target critics
TargetReduction = Literal["min", "max", "none", "pairs"]
MODEL = kind("a model", lambda value: hasattr(value, "policy") and not isinstance(value, type))


class Objective(nn.Module):
    """
    Losses of one gradient update. An objective sees batches and networks, never the environment or a buffer.

    Sub-classes yield steps from :meth:`steps`; the algorithm forms the gradients of each, and steps its optimisers,
    before it asks for the next.

    :param model: the algorithm whose networks are trained
    """

    #: batches must carry ``returns_to_go``
    needs_returns: ClassVar[bool] = False
    #: batches of the dataset must carry ``next_actions``
    needs_next_actions: ClassVar[bool] = False
    #: transitions of the batch must lead to the end of their episodes, rewards being Monte-Carlo returns
    whole_episodes: ClassVar[bool] = False
    #: the critic is trained, so its target network follows
    trains_critic: ClassVar[bool] = True
    #: actor and target networks keep the delays of the algorithm; otherwise they move at every update
    delayed: bool = True
    #: of these, the actor does; otherwise it steps at every update, on its minibatch, and the targets alone keep theirs
    actor_waits: ClassVar[bool] = True
    #: target networks follow their networks
    moves_targets: ClassVar[bool] = True
    #: what this objective trains on the dataset before all else, for people; empty for nothing
    preparation: ClassVar[str] = ""
    #: fewest critics that it can do with
    least_critics: ClassVar[int] = 1
    #: it tunes SAC's temperature, on the scale of values
    tunes_ent_coef: ClassVar[bool] = False
    #: its modules that hold values, by name
    value_networks: ClassVar[tuple[str, ...]] = ()
    #: its modules that say something of the policy and are made as the critics are, by name: they go on where critics
    #: are thrown away, and begin anew where these get another shape
    critic_like: ClassVar[tuple[str, ...]] = ()
    #: hooks that have nothing to change here, because this objective never asks for what they change
    unused_hooks: ClassVar[tuple[str, ...]] = ()
    #: what its arguments are tuned in, by name; those that are missing are not tuned unless the user says in what
    search_space: ClassVar[SearchSpace] = MappingProxyType({})

    @checked
    def __init__(self, model: Annotated[Learner, MODEL]):
        super().__init__()
        # a plain attribute in a tuple: the model owns the networks, this module must not register them
        self._model: tuple[Any, ...] = (model,)
        #: optimisers of the objective's own parameters, by the names of their losses
        self.optimizers = Optimizers()
        #: which of the algorithm's schedules an own optimiser follows that has no learning rate of its own
        self.follows: dict[str, str] = {}
        #: arguments of the algorithm that this objective decides by itself, with what they are here, or ``UNUSED``
        self.overrides: dict[str, Any] = {}

    @property
    def model(self) -> Learner:
        """The algorithm whose networks are trained."""
        return self._model[0]

    @property
    def gamma(self) -> float:
        """Discount factor of one-step targets in the present phase; the model's."""
        return self.model.gamma

    def preparation_progress(self) -> tuple[int, int]:
        """:return: gradient steps made, and to be made, before the first of pre-training"""
        return 0, 0

    def preparation_steps(self, batch: Batch) -> Iterator[Step]:
        """
        :param batch: transitions of the dataset
        :return: what to minimise in one gradient step before pre-training
        """
        raise NotImplementedError

    def check_prepared(self) -> None:
        """:raises ValueError: if the first update online would miss something that pre-training makes"""

    def learning_rate_factor(self, name: str, progress_remaining: float) -> float:
        """
        :param name: of an optimiser of the algorithm
        :param progress_remaining: from 1 at the start of the phase to 0 at its end
        :return: what the learning rate is multiplied by
        """
        return 1.0

    def steps(self, batch: Batch, actor_batch: Batch | None) -> Iterator[Step]:
        """
        :param batch: transitions for the critics
        :param actor_batch: transitions for the actor and the temperature; ``None`` when the actor waits, or a callback
            holds it
        :return: what to minimise, in the order of the updates
        """
        raise NotImplementedError

    def forget_values(self) -> None:
        """Start afresh with what this objective itself has learned of values."""

    def keep_first(self, n_critics: int) -> None:
        """
        The ensemble of critics is cut; so is what this objective has for each of them.

        :param n_critics: members to keep
        """

    # -- a second set of critics -----------------------------------------------------------------------------------

    def new_value_network(self) -> nn.Module | None:
        """:return: a fresh V(s), where this objective learns one"""
        return None

    def second_draws(self, batch: Batch) -> tuple[Any, ...]:
        """
        :param batch: transitions
        :return: random numbers and temperature of :meth:`second_losses`
        """
        raise NotImplementedError

    def second_losses(self, second: CriticSet, batch: Batch, *draws: Any) -> LossesAndMetrics:
        """
        What a second set of critics minimises on a batch: the TD error towards targets of its own, without any term
        that an offline objective adds.

        :param second: the critics
        :param batch: transitions
        :param draws: see :meth:`second_draws`
        :return: losses ``second_critic``, and ``second_value`` where there is a V
        """
        raise NotImplementedError

    @property
    def supports_second_critics(self) -> bool:
        """Whether a second set of critics can learn beside this objective's."""
        return type(self).second_losses is not Objective.second_losses

    def noise(self, name: str, observations: PyTorchObs, n_actions: int | None = None) -> th.Tensor | None:
        """
        Standard normal draws for one action (or several) per state; ``None`` with gSDE, which has its own.

        :param name: of the draw, see :class:`~sb3_o2o.objectives.draws.Draws`
        :param observations: ``(B, *obs)`` or a dict of them
        :param n_actions: actions per state, K; one without the extra axis by default
        :return: ``(B, act)`` or ``(B, K, act)``
        """
        if self.model.use_sde:
            return None
        rows = len(next(iter(observations.values())) if isinstance(observations, dict) else observations)
        shape = (rows, self.model.action_dim) if n_actions is None else (rows, n_actions, self.model.action_dim)
        return self.model.draws.normal(name, shape)


def check_target_reduction(target_reduction: TargetReduction, critic_subset: int | None, n_critics: int) -> None:
    """
    :param target_reduction: over the target critics: ``"min"``, ``"max"``, ``"none"`` for a target per critic, or
        ``"pairs"`` for one per pair of critics
    :param critic_subset: target critics that the objective draws; None for all
    :param n_critics: critics in the ensemble
    :raises ValueError: if some of the target critics are drawn and each has to be asked, or there are no pairs
    """
    if target_reduction in ("none", "pairs") and critic_subset is not None:
        raise ValueError(
            f"target_reduction={target_reduction!r} gives every critic its own target, so there is nothing to draw: "
            f"set critic_subset=None, not {critic_subset}."
        )
    if target_reduction == "pairs" and n_critics % 2:
        raise ValueError(f"target_reduction='pairs' needs an even number of critics, not n_critics={n_critics}.")


class SACObjective(Objective):
    """
    Soft actor-critic, in Stable-Baselines3's order: critic, actor, temperature, with the temperature as it was
    before the update.

    A second set of critics Q2 has the same target with its own target networks, and the same entropy term:
    ``y2 = r + discount (1 - d) (min Qb2(s', a') - alpha log pi(a'|s'))``.

    :param model: the algorithm whose networks are trained
    :param entropy_backup: include the entropy in the TD target; the model's ``entropy_backup`` by default
    :param critic_reduction: see :func:`~sb3_o2o.objectives.functional.ensemble_mse`
    :param max_target_backup: back up the largest of ``n_actions`` sampled next actions (after the minimum over critics)
    :param n_actions: sampled actions per state, where several are used
    :param entropy_at_next: measure the policy's entropy at the next observations when the temperature is
        updated, as the official WSRL code does
    :param simultaneous: form all losses from the same parameters, as CORL and OCR-CFT do: the actor then sees the
        critics before their step
    :param target_reduction: ``"min"`` backs up the minimum over the target critics, ``"none"`` gives each critic a
        target of its own (SO2, eq. 3), ``"pairs"`` each pair (Off2On), ``"max"`` backs up the maximum (WSRL on AntMaze,
        as the paper's text has it)
    """

    tunes_ent_coef: ClassVar[bool] = True
    unused_hooks: ClassVar[tuple[str, ...]] = ("advantages",)

    @checked
    def __init__(
        self,
        model: SACLearner,
        *,
        entropy_backup: bool | None = None,
        critic_reduction: CriticReduction = "half_sum",
        max_target_backup: bool = False,
        n_actions: Count = 10,
        entropy_at_next: bool = False,
        simultaneous: bool = False,
        target_reduction: TargetReduction = "min",
    ):
        super().__init__(model)
        self.target_subset, self.actor_reduction = self.reductions(model)
        check_target_reduction(target_reduction, self.target_subset, model.n_critics)
        if max_target_backup and model.use_sde:
            raise ValueError(
                "max_target_backup samples several actions per state, which gSDE cannot: set use_sde=False."
            )
        self.entropy_backup = model.entropy_backup if entropy_backup is None else entropy_backup
        self.critic_reduction = critic_reduction
        self.max_target_backup = max_target_backup
        self.n_actions = n_actions
        self.entropy_at_next = entropy_at_next
        self.simultaneous = simultaneous
        self.target_reduction = target_reduction

    def reductions(self, model: SACLearner) -> tuple[int | None, str]:
        """
        :param model: the algorithm whose networks are trained
        :return: target critics that are drawn, None for all; and what the actor maximises over critics
        """
        return model.critic_subset, model.actor_critics

    @property
    def model(self) -> SACLearner:
        """The algorithm whose networks are trained."""
        return self._model[0]

    def steps(self, batch: Batch, actor_batch: Batch | None) -> Iterator[Step]:
        """See :meth:`Objective.steps`."""
        if self.model.use_sde:
            self.model.actor.reset_noise()  # it was drawn with the standard deviation before the last step
        ent_coef = self.model.current_ent_coef()
        # drawn before the critic's draws: the order of Stable-Baselines3, so that a seed gives the same numbers
        policy_noise = None if actor_batch is None else self.noise("policy", actor_batch.observations)
        draws = self.critic_draws(batch)
        next_noise = None if actor_batch is None else self.temperature_draws(actor_batch)
        if self.simultaneous:
            yield Step(self.all_losses, (batch, draws, actor_batch, policy_noise, next_noise, ent_coef))
            return
        yield Step(self.critic_losses, (batch, *draws, ent_coef))
        if actor_batch is not None:
            yield Step(self.actor_losses, (actor_batch, policy_noise, next_noise, ent_coef))

    def all_losses(
        self,
        batch: Batch,
        draws: tuple[th.Tensor | None, ...],
        actor_batch: Batch | None,
        noise: th.Tensor | None,
        next_noise: th.Tensor | None,
        ent_coef: th.Tensor,
    ) -> LossesAndMetrics:
        """
        :param batch: transitions for the critics
        :param draws: see :meth:`critic_draws`
        :param actor_batch: transitions for the actor; None when it waits
        :param noise: see :meth:`actor_losses`
        :param next_noise: likewise
        :param ent_coef: temperature, ``(1,)``
        :return: all losses, from the same parameters
        """
        losses, metrics = self.critic_losses(batch, *draws, ent_coef)  # type: ignore[arg-type,call-arg]
        if actor_batch is not None:
            actor_losses, actor_metrics = self.actor_losses(actor_batch, noise, next_noise, ent_coef)
            losses, metrics = joined(losses, actor_losses), metrics | actor_metrics
        return losses, metrics

    # -- critic ----------------------------------------------------------------------------------------------------

    def critic_draws(self, batch: Batch) -> tuple[th.Tensor | None, ...]:
        """
        :param batch: transitions
        :return: the random numbers of :meth:`critic_losses`
        """
        noise = self.noise("next_policy", batch.next_observations, self.n_actions if self.max_target_backup else None)
        return noise, self.model.draw_critics(self.target_subset)

    def critic_losses(
        self, batch: Batch, noise: th.Tensor | None, members: th.Tensor | None, ent_coef: th.Tensor
    ) -> LossesAndMetrics:
        """
        :param batch: transitions
        :param noise: standard normal draws for the next actions, ``(B, act)`` or ``(B, K, act)``
        :param members: target critics to evaluate, ``(m,)``; all by default
        :param ent_coef: temperature, ``(1,)``
        :return: the critics' loss
        """
        target = self.td_target(batch, noise, members, ent_coef)
        values = self.model.critic.q_values(batch.observations, batch.actions)
        return {"critic": F.ensemble_mse(values, target, self.critic_reduction)}, {}

    def second_draws(self, batch: Batch) -> tuple[Any, ...]:
        """See :meth:`Objective.second_draws`."""
        # what SAC's target draws, without what a sub-class adds for its own critics
        return *SACObjective.critic_draws(self, batch), self.model.current_ent_coef()

    def second_losses(self, second: CriticSet, batch: Batch, *draws: Any) -> LossesAndMetrics:
        """See :meth:`Objective.second_losses`."""
        target = self.td_target(batch, *draws, second.critic_target)  # type: ignore[call-arg]
        values = second.critic.q_values(batch.observations, batch.actions)
        return {"second_critic": F.ensemble_mse(values, target, self.critic_reduction)}, {}

    @th.no_grad()
    def td_target(
        self,
        batch: Batch,
        noise: th.Tensor | None,
        members: th.Tensor | None,
        ent_coef: th.Tensor,
        critic_target: EnsembleCritic | None = None,
    ) -> th.Tensor:
        """
        :param batch: transitions
        :param noise: standard normal draws for the next actions, ``(B, act)`` or ``(B, K, act)``
        :param members: target critics to evaluate, ``(m,)``; all by default
        :param ent_coef: temperature, ``(1,)``
        :param critic_target: target critics; the model's own by default
        :return: ``(B,)``, or ``(N, B)`` for a target per critic
        """
        model, hooks = self.model, self.model.hooks
        actions, log_prob = model.actor.rsample(batch.next_observations, noise)
        evaluated = hooks.next_actions(actions, log_prob, batch)
        critic_target = model.critic_target if critic_target is None else critic_target
        values = critic_target.q_values(batch.next_observations, evaluated, members)
        smallest = F.reduce_ensemble(values, "min")
        if self.max_target_backup:
            smallest, best = smallest.max(dim=1)
            log_prob = log_prob.gather(1, best[:, None]).squeeze(1)
            rows = th.arange(len(best), device=best.device)
            actions, values = actions[rows, best], values[:, rows, best]
        if self.target_reduction == "min":
            values = smallest
        elif self.target_reduction == "max":
            values = F.reduce_ensemble(values, "max")
        elif self.target_reduction == "pairs":
            values = F.pair_minima(values).repeat_interleave(2, dim=0)
        if self.entropy_backup:
            values = values - ent_coef * log_prob
        # the actions that the log-probability is of, wherever the critics were asked
        values = hooks.next_values(values, actions, log_prob, batch)
        target = F.bellman_target(batch.rewards, batch.dones, batch.discounts, values)
        return hooks.td_target(target, batch)

    # -- actor -----------------------------------------------------------------------------------------------------

    def temperature_draws(self, batch: Batch) -> th.Tensor | None:
        """
        :param batch: the actor's transitions
        :return: noise for the actions whose entropy tunes the temperature, where these are not the actor loss's
        """
        is_tuned = self.model.log_ent_coef is not None
        return self.noise("entropy", batch.next_observations) if is_tuned and self.entropy_at_next else None

    def actor_losses(
        self, batch: Batch, noise: th.Tensor | None, next_noise: th.Tensor | None, ent_coef: th.Tensor
    ) -> LossesAndMetrics:
        """
        :param batch: the actor's transitions
        :param noise: standard normal draws for the actions, ``(B, act)``; None with gSDE
        :param next_noise: the same at the next observations, where the entropy is measured there
        :param ent_coef: temperature before the update, ``(1,)``
        :return: the losses of actor and temperature, both of the policy before its step
        """
        losses, metrics, log_prob = self.actor_loss(batch, noise, ent_coef)
        if self.model.log_ent_coef is not None:
            if self.entropy_at_next:
                with th.no_grad():
                    _, log_prob = self.model.actor.rsample(batch.next_observations, next_noise)
            losses["ent_coef"] = self.temperature_loss(log_prob)
        return losses, {**metrics, "ent_coef": ent_coef}

    def actor_loss(
        self, batch: Batch, noise: th.Tensor | None, ent_coef: th.Tensor
    ) -> tuple[dict[str, th.Tensor], dict[str, th.Tensor], th.Tensor]:
        """
        :param batch: the actor's transitions
        :param noise: see :meth:`actor_losses`
        :param ent_coef: likewise
        :return: the losses of the actor and of callbacks, metrics, and the log-probability of the actions, ``(B,)``
        """
        model, hooks = self.model, self.model.hooks
        actions, log_prob = model.actor.rsample(batch.observations, noise)
        values = F.reduce_ensemble(model.critic.q_values(batch.observations, actions), self.actor_reduction)
        values = hooks.actor_values(values, actions, batch)
        return *hooks.actor_losses(ent_coef * log_prob - values, actions, log_prob, batch), log_prob

    def temperature_loss(self, log_prob: th.Tensor) -> th.Tensor:
        """
        :param log_prob: of the policy's actions, ``(B,)``
        :return: the loss of a tuned temperature
        """
        assert self.model.log_ent_coef is not None
        return F.temperature_loss(self.model.log_ent_coef, log_prob, float(self.model.target_entropy))

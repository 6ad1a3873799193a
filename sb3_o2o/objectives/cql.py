"""Conservative Q-learning and its calibrated form."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import torch as th

from sb3_o2o.checked import checked
from sb3_o2o.kinds import NOTHING, Count, NotNegative, Positive, is_number, kind
from sb3_o2o.networks.optimizers import FusedAdam
from sb3_o2o.objectives import functional as F
from sb3_o2o.objectives.batch import Batch, LossesAndMetrics
from sb3_o2o.objectives.learner import SACLearner
from sb3_o2o.objectives.objective import CriticReduction, SACObjective, TargetReduction
from sb3_o2o.search_space import Range, SearchSpace


def _are_bounds(value: Any) -> bool:
    return isinstance(value, list | tuple) and len(value) == 2 and all(map(is_number, value)) and value[0] <= value[1]


#: the official code clips on one side only: a bound may be infinite
Bounds = Annotated[
    tuple[float, float] | None,
    kind("(low, high), low not above high, of which one may be infinite", _are_bounds) | NOTHING,
]


class CQLObjective(SACObjective):
    """
    Conservative Q-learning on a SAC back-end (Kumar et al. 2020), wired as in CORL and the official WSRL code:
    all losses are formed from the same parameters, the entropy is not backed up, all actions are scored at s.

    :param model: the algorithm whose networks are trained
    :param cql_weight: weight of the conservative term, >= 0
    :param n_actions: actions per state from each of uniform, pi(.|s) and pi(.|s')
    :param importance_sampling: correct each value by the density of its action's distribution
    :param temperature: of the logsumexp, > 0
    :param lagrange_gap: tune a multiplier so that the gap stays at this value; ``None`` for a fixed weight
    :param lagrange_learning_rate: of the multiplier; the critics' by default
    :param critic_subset: critics drawn for the conservative term at each update; all by default
    :param difference_clip: clip the gap to (low, high) before averaging; ``None`` for no clipping
    :param max_target_backup: see :class:`~sb3_o2o.objectives.objective.SACObjective`
    :param critic_reduction: likewise
    :param entropy_backup: likewise; off, as in every published configuration
    :param entropy_at_next: likewise
    :param target_reduction: likewise
    """

    search_space: ClassVar[SearchSpace] = {"cql_weight": Range(0.5, 20.0, log=True)}

    @checked
    def __init__(
        self,
        model: SACLearner,
        *,
        cql_weight: NotNegative = 5.0,
        n_actions: Count = 10,
        importance_sampling: bool = True,
        temperature: Positive = 1.0,
        lagrange_gap: float | None = None,
        lagrange_learning_rate: Positive | None = None,
        critic_subset: Count | None = None,
        difference_clip: Bounds = None,
        max_target_backup: bool = False,
        critic_reduction: CriticReduction = "sum",
        entropy_backup: bool = False,
        entropy_at_next: bool = False,
        target_reduction: TargetReduction = "min",
    ):
        super().__init__(
            model,
            entropy_backup=entropy_backup,
            critic_reduction=critic_reduction,
            max_target_backup=max_target_backup,
            n_actions=n_actions,
            entropy_at_next=entropy_at_next,
            simultaneous=True,
            target_reduction=target_reduction,
        )
        if critic_subset is not None and not 1 <= critic_subset <= model.n_critics:
            raise ValueError(f"critic_subset must lie in [1, n_critics={model.n_critics}], not {critic_subset}.")
        if model.use_sde:
            raise ValueError("CQL samples several actions per state, which gSDE cannot: set use_sde=False.")
        self.overrides["entropy_backup"] = entropy_backup
        self.cql_weight = cql_weight
        self.importance_sampling = importance_sampling
        self.temperature_of_gap = temperature
        self.lagrange_gap = lagrange_gap
        self.critic_subset = critic_subset
        self.difference_clip = None if difference_clip is None else tuple(difference_clip)
        if lagrange_gap is not None:
            # exp(1) at the start, as in CORL
            self.log_multiplier = th.nn.Parameter(th.ones((), device=model.device))
            default = model.qf_lr_schedule(1.0)
            rate = default if lagrange_learning_rate is None else lagrange_learning_rate
            self.optimizers["lagrange"] = FusedAdam([self.log_multiplier], lr=rate)
            if lagrange_learning_rate is None:
                self.follows["lagrange"] = "critic"

    def critic_draws(self, batch: Batch) -> tuple[th.Tensor | None, ...]:
        """
        :param batch: transitions
        :return: the random numbers of :meth:`critic_losses`
        """
        model = self.model
        td_noise = self.noise(
            "next_policy", batch.next_observations, self.n_actions if self.max_target_backup else None
        )
        # what the conservative term draws: uniform actions, then noise for pi(.|s) and pi(.|s')
        shape = (len(batch), self.n_actions, model.action_dim)
        uniform = model.draws.uniform("cql_actions", shape)
        noise = model.draws.normal("cql_policy", (2, *shape))
        return (
            td_noise,
            uniform,
            noise,
            model.draw_critics(self.target_subset),
            model.draw_critics(self.critic_subset, "cql_critics"),
        )

    def critic_losses(  # type: ignore[override]
        self,
        batch: Batch,
        td_noise: th.Tensor,
        uniform: th.Tensor,
        noise: th.Tensor,
        members: th.Tensor | None,
        subset: th.Tensor | None,
        ent_coef: th.Tensor,
    ) -> LossesAndMetrics:
        """
        :param batch: transitions
        :param td_noise: standard normal draws for the TD target, ``(B, act)`` or ``(B, K, act)``
        :param uniform: see :meth:`conservative_gap`
        :param noise: likewise
        :param members: target critics to evaluate, ``(m,)``; all by default
        :param subset: critics in the conservative term, ``(m,)``; all by default
        :param ent_coef: temperature, ``(1,)``
        :return: TD loss plus conservative term, and the multiplier's loss
        """
        target = self.td_target(batch, td_noise, members, ent_coef)
        values = self.model.critic.q_values(batch.observations, batch.actions)
        gap, metrics = self.conservative_gap(batch, values, uniform, noise, subset)
        if self.difference_clip is not None:
            gap = gap.clamp(*self.difference_clip)
        gap = gap.mean(dim=1)
        penalty, weight = gap, th.as_tensor(self.cql_weight, device=gap.device)
        if self.lagrange_gap is not None:
            weight = weight * self.log_multiplier.detach().exp().clamp(0.0, 1e6)
            penalty = gap - self.lagrange_gap
        # a subset stands for the whole ensemble: each critic keeps the same expected TD-to-CQL ratio
        scale = {"half_sum": 0.5 * values.shape[0], "sum": values.shape[0], "mean": 1.0}[self.critic_reduction]
        loss = F.ensemble_mse(values, target, self.critic_reduction) + scale * weight * penalty.mean()
        losses = {"critic": loss}
        metrics |= {"cql_gap": gap.detach().mean(), "cql_gap_per_critic": gap.detach()}
        if self.lagrange_gap is not None:
            losses["lagrange"] = F.lagrange_loss(self.log_multiplier, gap, self.lagrange_gap, self.cql_weight)
            metrics["cql_multiplier"] = self.log_multiplier.detach().exp()
        return losses, metrics

    def conservative_gap(
        self,
        batch: Batch,
        data_values: th.Tensor,
        uniform: th.Tensor,
        noise: th.Tensor,
        subset: th.Tensor | None,
    ) -> tuple[th.Tensor, dict[str, th.Tensor]]:
        """
        :param batch: transitions
        :param data_values: Q at the dataset's actions, ``(N, B)``
        :param uniform: uniform actions in [-1, 1], ``(B, K, act)``
        :param noise: standard normal draws for pi(.|s) and pi(.|s'), ``(2, B, K, act)``
        :param subset: critics in the term, ``(m,)``; all by default
        :return: the gap, ``(m, B)``; and where values have a bound, ``bound_rate``: the part that it holds up
        """
        model = self.model
        with th.no_grad():
            now, log_prob_now = model.actor.rsample(batch.observations, noise[0])
            after, log_prob_after = model.actor.rsample(batch.next_observations, noise[1])
        actions = th.cat([uniform, now, after], dim=1)
        values = model.critic.q_values(batch.observations, actions, subset)
        random_values, policy_values = values.split([self.n_actions, 2 * self.n_actions], dim=2)
        bounded = self.bound(policy_values, batch)
        gap = F.conservative_gap(
            random_values,
            bounded,
            data_values if subset is None else data_values.index_select(0, subset),
            random_log_density=F.uniform_log_density(model.action_dim) if self.importance_sampling else None,
            policy_log_prob=th.cat([log_prob_now, log_prob_after], dim=1),
            temperature=self.temperature_of_gap,
        )
        if bounded is policy_values:
            return gap, {}
        return gap, {"bound_rate": (bounded > policy_values).float().mean()}

    def bound(self, policy_values: th.Tensor, batch: Batch) -> th.Tensor:
        """
        Lower bound on the values that are pushed down; CQL has none.

        :param policy_values: Q at the policy's actions, ``(N, B, L)``
        :param batch: transitions
        :return: as ``policy_values``
        """
        return policy_values


class CalQLObjective(CQLObjective):
    """
    Calibrated Q-learning (Nakamoto et al. 2023): CQL that pushes the policy's values down no further than the
    data's Monte-Carlo returns. The bound acts on pi(.|s) and pi(.|s') actions only, before the importance
    correction. Arguments as :class:`CQLObjective`.

    Where the bound holds, nothing is pushed down; ``bound_rate`` is the part of the policy's actions where it does.
    Values that have not yet grown as high as the returns all lie below it: as long as the rate is near one, this is SAC
    on the dataset, with no pessimism but that towards uniform actions.
    """

    needs_returns: ClassVar[bool] = True

    def bound(self, policy_values: th.Tensor, batch: Batch) -> th.Tensor:
        """See :meth:`CQLObjective.bound`."""
        if batch.returns_to_go is None:
            raise ValueError(
                "Cal-QL needs the return-to-go of every transition, and this batch has none. Sample from an "
                "OfflineReplayBuffer or MonteCarloReplayBuffer, or use objective 'cql'."
            )
        return F.calibrated_values(policy_values, batch.returns_to_go)

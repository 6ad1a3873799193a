"""Staying near a reference: the best policy so far, or one that follows."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch as th
from torch import nn

from sb3_o2o.checked import checked
from sb3_o2o.finetuning.reference import AnyChoice, OffPolicyChoice, _ReferenceCallback
from sb3_o2o.kinds import Count, InnerFraction, NotNegative, Positive, Share
from sb3_o2o.networks.optimizers import FusedAdam
from sb3_o2o.objectives import Penalty
from sb3_o2o.objectives import finetuning_functional as FF
from sb3_o2o.search_space import Range, SearchSpace

if TYPE_CHECKING:
    from sb3_o2o.objectives import Batch

#: thresholds of the published configurations for medium data: first and last
_THRESHOLDS = {"kl": (0.125, 2.0), "mse": (0.0025, 0.04)}


class _OncePerRound(FusedAdam):
    """Steps at the first of the updates that follow a rollout, or in each of their rounds where there are several."""

    is_due = True

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "is_due": self.is_due}

    def step(self, closure: Any = None) -> Any:
        """See ``torch.optim.Adam``."""
        if self.is_due:
            self.is_due = False
            return super().step(closure)
        return None


class _Multiplier(nn.Module):
    """A Lagrange multiplier ``exp(x)`` with its optimiser."""

    def __init__(self, value: float, learning_rate: float):
        super().__init__()
        self.logarithm = nn.Parameter(th.tensor(math.log(value)))
        self.optimizer = _OncePerRound([self.logarithm], lr=learning_rate)

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        super()._apply(fn, recurse)
        self.optimizer.load_state_dict(self.optimizer.state_dict())  # its moments follow the parameter
        return self


class _NearReference(_ReferenceCallback):
    """
    How far the policy is from its reference. For policies with a density that is one sample's estimate of the KL
    divergence, with a floor under the reference's log-probability (saturated actions would swamp the mean); otherwise
    the squared difference of the deterministic actions.

    :param penalty: ``"kl"`` or ``"mse"``; by default the first where the policy has a density
    :param log_prob_floor: smallest log-probability under the reference that counts
    :param action_clip: largest action magnitude whose density is evaluated, in (0, 1)
    :param reference: see :class:`_ReferenceCallback`
    :param interval: likewise
    """

    exclusive = ("what the policy stays near",)

    @checked
    def __init__(
        self,
        penalty: Literal["kl", "mse"] | None,
        log_prob_floor: float,
        action_clip: InnerFraction,
        reference: AnyChoice,
        interval: Count,
    ):
        self.penalty = penalty
        self.log_prob_floor = log_prob_floor
        self.action_clip = action_clip
        super().__init__(reference, interval)

    @property
    def uses_density(self) -> bool:
        """Whether the divergence is KL."""
        actor: Any = self.model.policy.actor
        return (self.penalty or ("kl" if actor.stochastic else "mse")) == "kl"

    def _init_callback(self) -> None:
        model: Any = self.model
        name = type(self).__name__
        if self.penalty == "kl" and not model.actor.stochastic:
            raise ValueError(
                f"{name}(penalty='kl') needs a density, which the deterministic policy of "
                f"{type(model).__name__} does not have: use penalty='mse'."
            )
        if self.uses_density and model.use_sde:
            raise ValueError(
                f"{name}(penalty='kl') scores actions under a squashed Gaussian, which gSDE is not: use penalty='mse'."
            )

    def _divergence(self, observations: Any, actions: th.Tensor, log_prob: th.Tensor) -> th.Tensor:
        reference = self.policy.log_prob(observations, actions, self.action_clip)
        return FF.divergence_estimate(log_prob, reference, self.log_prob_floor)

    def _squares(self, observations: Any) -> th.Tensor:
        with th.no_grad():
            reference = self.policy.mode(observations)
        # of the policy itself, not of the target policy's smoothed action
        return (self.model.policy.actor.mode(observations) - reference).pow(2)

    def _of_next(self, actions: th.Tensor, log_prob: th.Tensor | None, batch: Batch) -> th.Tensor:
        """:return: the divergence at the next observations: per sample for KL, the batch's mean for squares"""
        if not self.uses_density:
            return self._squares(batch.next_observations).mean()
        assert log_prob is not None
        return self._divergence(batch.next_observations, actions, log_prob)


class TrustRegion(_NearReference):
    """
    PROTO (Li et al. 2023): online updates near a policy that follows the one that learns, so that trust grows as it
    earns it. The divergence from it is added to the actor's loss, and taken off the values that are backed up, with a
    weight that falls with the environment steps. ``reference="polyak"`` moves the reference a little towards the policy
    after each of the policy's own steps; its other choices are those of :class:`ConstrainedFineTuning`, whose
    divergence this is.

    :param weight: of the divergence at the first step of the fine-tuning run, >= 0; in PROTO the temperature of its
        pre-training, 2 on MuJoCo and 0.5 on AntMaze
    :param end_weight: from ``anneal_steps`` on, >= 0; a tenth of ``weight`` by default, as in PROTO
    :param anneal_steps: environment steps of the fine-tuning run in between, > 0
    :param tau: how far ``"polyak"`` moves, in (0, 1]; 0.005 on MuJoCo, 5e-5 on AntMaze and Adroit
    :param backup: take the divergence off the values that are backed up as well; not on AntMaze
    :param penalty: ``"kl"`` or ``"mse"``; by default the first where the policy has a density
    :param log_prob_floor: smallest log-probability under the reference that counts; ours
    :param action_clip: largest action magnitude whose density is evaluated, in (0, 1)
    :param reference: ``"polyak"``, ``"best"``, ``"champion"`` or ``"interval"``
    :param interval: environment steps between two references of ``"interval"``, > 0
    :raises ValueError: for a number out of range, a policy without a density where the penalty needs one, or a
        reference that follows evaluations where there are none
    """

    @checked
    def __init__(
        self,
        weight: NotNegative = 2.0,
        end_weight: NotNegative | None = None,
        anneal_steps: Count = 1_000_000,
        tau: Share = 0.005,
        backup: bool = True,
        penalty: Literal["kl", "mse"] | None = None,
        log_prob_floor: float = -50.0,
        action_clip: InnerFraction = 1 - 1e-4,
        reference: AnyChoice = "polyak",
        interval: Count = 1000,
    ):
        self.weight = weight
        self.end_weight = 0.1 * weight if end_weight is None else end_weight
        self.anneal_steps = anneal_steps
        self.tau = tau
        self.backup = backup
        #: of the step, as a tensor: a number that changes would be compiled anew
        self.current_weight = th.full((), float(weight))
        super().__init__(penalty, log_prob_floor, action_clip, reference, interval)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "current_weight": self.current_weight.cpu()}

    def _on_training_start(self) -> None:
        super()._on_training_start()
        self.current_weight = self.current_weight.to(self.model.device)

    def before_updates(self) -> None:
        """The weight is that of the step."""
        progress = min(self.model.n_finetuning_steps / self.anneal_steps, 1.0)
        self.current_weight.fill_(self.weight + (self.end_weight - self.weight) * progress)

    @th.no_grad()
    def after_update(self, batch: Batch, metrics: dict[str, th.Tensor]) -> None:
        """See :meth:`FineTuningCallback.after_update`: the reference follows where the policy has stepped."""
        if self.reference == "polyak" and "actor_loss" in metrics:
            th._foreach_lerp_(list(self.policy.parameters()), list(self._network().parameters()), self.tau)

    def next_values(self, values: th.Tensor, actions: th.Tensor, log_prob: th.Tensor | None, batch: Batch) -> th.Tensor:
        """See :meth:`FineTuningCallback.next_values`."""
        return values - self.current_weight * self._of_next(actions, log_prob, batch) if self.backup else values

    def actor_penalty(self, actions: th.Tensor, log_prob: th.Tensor | None, batch: Batch) -> Penalty:
        """See :meth:`FineTuningCallback.actor_penalty`."""
        if self.uses_density:
            assert log_prob is not None
            divergence = self._divergence(batch.observations, actions, log_prob)
        else:
            divergence = self._squares(batch.observations).mean(dim=1)
        metrics = {"trust_divergence": divergence.detach().mean(), "trust_weight": self.current_weight.clone()}
        return Penalty(self.current_weight * divergence, {}, metrics)


class ConstrainedFineTuning(_NearReference):
    """
    Online updates near a reference policy (OCR-CFT, eq. 36 to 39 and 45 to 49; Luo et al. 2024): the divergence from it
    is taken off the values that are backed up, and added to the actor's loss, both weighted by a Lagrange multiplier
    that keeps it below a threshold. The threshold rises, and the reference improves with the policy.

    For policies with a density the divergence is one sample's estimate of the KL divergence, with a floor under the
    reference's log-probability (saturated actions would swamp the mean); in the target it is taken per sample.
    Otherwise it is the mean squared difference of the deterministic actions; in the target it is its mean over the
    batch. A violated constraint weighs ``expectile``, a satisfied one ``1 - expectile``. Where several updates follow a
    rollout, the multiplier moves in the first, and in each of their rounds where a recipe makes them for several
    environments.

    The defaults are those for medium data. For expert data the paper has thresholds 0.005 to 0.125 (KL) and 2.5e-5 to
    6.25e-4 (squared difference).

    :param threshold: of the divergence at the first step, > 0; 0.125 for KL, 0.0025 for the squared difference
    :param end_threshold: at the last; 2.0 and 0.04
    :param anneal_steps: environment steps of the fine-tuning run in between, > 0
    :param penalty: ``"kl"`` or ``"mse"``; by default the first where the policy has a density
    :param multiplier: the Lagrange multiplier at the start, > 0
    :param multiplier_learning_rate: of its logarithm, > 0
    :param expectile: weight of a violation, in (0, 1)
    :param log_prob_floor: smallest log-probability under the reference that counts
    :param action_clip: largest action magnitude whose density is evaluated, in (0, 1)
    :param reference: ``"best"``: whenever the run's evaluation callback finds a better mean return than ever before,
        the policy that earned it becomes the reference (so its frequency matters: 1000 steps in the paper);
        ``"champion"``: whenever :class:`ChampionChallenger`, which has to be there, has a better one, which no
        evaluation's score decides; ``"interval"``: every ``interval`` steps the current policy does
    :param interval: environment steps, > 0
    :raises ValueError: for a number out of range, thresholds that decrease, a policy without a density where the
        penalty needs one, or a reference that follows evaluations or a champion where there are none
    """

    exclusive = ("what the policy stays near",)
    search_space: ClassVar[SearchSpace] = {
        "expectile": Range(0.5, 0.9),
        "multiplier": Range(0.1, 10.0, log=True),
        "anneal_steps": Range(20_000, 500_000, log=True),
    }

    @checked
    def __init__(
        self,
        threshold: Positive | None = None,
        end_threshold: Positive | None = None,
        anneal_steps: Count = 100_000,
        penalty: Literal["kl", "mse"] | None = None,
        multiplier: Positive = 1.0,
        multiplier_learning_rate: Positive = 5e-5,
        expectile: InnerFraction = 0.7,
        log_prob_floor: float = -50.0,
        action_clip: InnerFraction = 1 - 1e-4,
        reference: OffPolicyChoice = "best",
        interval: Count = 1000,
    ):
        if penalty is not None or None not in (threshold, end_threshold):
            _thresholds(penalty or "kl", threshold, end_threshold)  # as far as they are known, now
        self.threshold, self.end_threshold = threshold, end_threshold
        self.anneal_steps = anneal_steps
        self.initial_multiplier = multiplier
        self.multiplier_learning_rate = multiplier_learning_rate
        self.expectile = expectile
        #: of the step, as a tensor: a number that changes would be compiled anew
        self.current_threshold = th.zeros(())
        super().__init__(penalty, log_prob_floor, action_clip, reference, interval)

    def begin_new_run(self) -> None:
        """See :meth:`FineTuningCallback.begin_new_run`."""
        super().begin_new_run()
        self.multiplier = _Multiplier(self.initial_multiplier, self.multiplier_learning_rate)

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__()
        state["current_threshold"] = self.current_threshold.cpu()
        if self.multiplier.logarithm.device.type != "cpu":
            state["multiplier"] = self._copied_multiplier()
        return state

    def _copied_multiplier(self) -> _Multiplier:
        copied = _Multiplier(self.initial_multiplier, self.multiplier_learning_rate)
        copied.load_state_dict(self.multiplier.state_dict())
        copied.optimizer.load_state_dict(self.multiplier.optimizer.state_dict())
        return copied

    @property
    def optimizers(self) -> Mapping[str, th.optim.Optimizer]:  # type: ignore[override]
        """The multiplier's, by the name of its loss."""
        return {"multiplier": self.multiplier.optimizer}

    def _init_callback(self) -> None:
        super()._init_callback()
        _thresholds("kl" if self.uses_density else "mse", self.threshold, self.end_threshold)

    def _on_training_start(self) -> None:
        super()._on_training_start()
        device = self.model.device
        self.multiplier.to(device)
        self.current_threshold = self.current_threshold.to(device)
        self._set_threshold()

    def _on_rollout_end(self) -> None:
        super()._on_rollout_end()
        self._set_threshold()

    def before_updates(self) -> None:
        """The multiplier's turn comes again."""
        self.multiplier.optimizer.is_due = True

    def _set_threshold(self) -> None:
        first, last = _thresholds("kl" if self.uses_density else "mse", self.threshold, self.end_threshold)
        progress = min(self.model.n_finetuning_steps / self.anneal_steps, 1.0)
        self.current_threshold.fill_(first + (last - first) * progress)

    # -- update ----------------------------------------------------------------------------------------------------

    def next_values(self, values: th.Tensor, actions: th.Tensor, log_prob: th.Tensor | None, batch: Batch) -> th.Tensor:
        """
        :param values: ``(B,)``
        :param actions: the policy's next actions, ``(B, act)``
        :param log_prob: ``(B,)``; None where the policy is deterministic
        :param batch: the transitions
        :return: the values less the weighted divergence
        """
        return values - self.multiplier.logarithm.exp() * self._of_next(actions, log_prob, batch)

    def actor_penalty(self, actions: th.Tensor, log_prob: th.Tensor | None, batch: Batch) -> Penalty:
        """
        :param actions: the policy's actions, ``(B, act)``
        :param log_prob: their log-probability, ``(B,)``; None where the policy is deterministic
        :param batch: the transitions
        :return: the weighted divergence, with the multiplier's loss
        """
        if self.uses_density:
            assert log_prob is not None
            penalty = divergence = self._divergence(batch.observations, actions, log_prob)
        else:
            divergence = self._squares(batch.observations)
            penalty = divergence.mean(dim=1)
        multiplier = self.multiplier.logarithm.detach().exp()
        slack = FF.asymmetric_slack(self.current_threshold - divergence.detach(), self.expectile)
        metrics = {
            "divergence": divergence.detach().mean(),
            "multiplier": multiplier,
            "threshold": self.current_threshold.clone(),
            "constraint_slack": slack,
        }
        losses = {"multiplier": FF.multiplier_loss(self.multiplier.logarithm, slack)}
        return Penalty(multiplier * penalty, losses, metrics)


def _thresholds(penalty: str, threshold: float | None, end_threshold: float | None) -> tuple[float, float]:
    """
    :return: the first and the last
    :raises ValueError: if they decrease, or are not positive
    """
    first, last = _THRESHOLDS[penalty]
    first = first if threshold is None else threshold
    last = last if end_threshold is None else end_threshold
    if not 0 < first <= last < math.inf:
        raise ValueError(
            "ConstrainedFineTuning: the threshold must be > 0 and finite, and must not decrease: the constraint "
            f"loosens as the policy improves. Got threshold={first} and end_threshold={last}."
        )
    return first, last

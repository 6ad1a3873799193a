"""Optimistic critic reconstruction, before the first environment step."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal

from stable_baselines3.common.callbacks import BaseCallback

from sb3_o2o.checked import checked
from sb3_o2o.data.sources import AnyDataset
from sb3_o2o.errors import warn
from sb3_o2o.finetuning.reference import _FrozenPolicyCallback
from sb3_o2o.finetuning.replay import _DatasetCallback
from sb3_o2o.kinds import Count, InnerFraction, NotNegative, Positive, whole
from sb3_o2o.networks import frozen_copy
from sb3_o2o.objectives import (
    DeterministicAlignmentObjective,
    Objective,
    OnReevaluatedCriticsObjective,
    StochasticAlignmentObjective,
)
from sb3_o2o.search_space import Range, SearchSpace

#: YAML reads 5e5 as a float
_Updates = Annotated[int, whole(1, or_float=True)]


class _GradientPhase(_DatasetCallback):
    """
    A phase of updates on the offline dataset. A model that has it behind it, saved or not, skips it; critics that are
    replaced (``load_offline(load_critic=False)``), or pre-trained again, need it again.

    :param gradient_steps: updates, > 0
    :param ent_coef: temperature with which the phase starts, > 0; by default the model's. For policies with a density
    :param batch_size: transitions per update, > 0; by default the model's
    :param dataset: see :class:`~sb3_o2o.finetuning.replay._DatasetCallback`
    """

    phase: ClassVar[str]

    @property
    def exclusive(self) -> tuple[str, ...]:  # type: ignore[override]
        """See :attr:`FineTuningCallback.exclusive`."""
        return (f"how the phase {self.phase!r} is made",)

    @checked
    def __init__(
        self,
        gradient_steps: _Updates,
        ent_coef: Positive | None = None,
        batch_size: Count | None = None,
        dataset: AnyDataset = None,
    ):
        super().__init__(dataset)
        self.gradient_steps = int(gradient_steps)
        self.ent_coef = ent_coef
        self.batch_size = batch_size

    def _init_callback(self) -> None:
        super()._init_callback()
        if self.ent_coef is not None and not hasattr(self.model, "set_ent_coef"):
            name = type(self.model).__name__
            raise ValueError(f"{type(self).__name__}(ent_coef) is a temperature, which {name} does not have.")

    def check_run(self, callbacks: list[BaseCallback]) -> None:
        """See :meth:`~sb3_o2o.finetuning.callback.FineTuningCallback.check_run`."""
        order = [type(each).__name__ for each in callbacks if isinstance(each, _GradientPhase)]
        if order == ["ValueAlignment", "PolicyReevaluation"]:
            raise ValueError(
                "PolicyReevaluation after ValueAlignment would undo it: put PolicyReevaluation first in the list."
            )
        for each in () if self._is_finished() else callbacks:
            if isinstance(each, _FrozenPolicyCallback) and each.renews_policy:
                other = type(each).__name__
                raise ValueError(
                    f"{type(self).__name__} makes critics for the offline policy, and {other} has another one learn, "
                    "which begins anew: leave one of them out."
                )

    def _on_training_start(self) -> None:
        model: Any = self.model
        if self._is_finished():
            made = model.phase_steps.get(self.phase, self.gradient_steps)
            if made != self.gradient_steps:
                warn(
                    f"{type(self).__name__}(gradient_steps={self.gradient_steps}) is skipped: this model has the phase "
                    f"behind it, with {made} updates. load_offline(load_critic=False) makes it anew.",
                )
            return
        super()._on_training_start()

    def starts_ent_coef(self, finished_phases: Sequence[str]) -> float | None:
        """See :meth:`~sb3_o2o.finetuning.callback.FineTuningCallback.starts_ent_coef`."""
        return None if self.phase in finished_phases else self.ent_coef

    def _is_finished(self) -> bool:
        return self.phase in self.model.finished_phases

    def before_collecting(self) -> None:
        """Run the phase, or what an interruption has left of it."""
        model: Any = self.model
        if self._is_finished():
            return
        if self.phase not in model.phase_steps:
            if self.ent_coef is not None:
                model.set_ent_coef(self.ent_coef)
            self._begin(model)
        objective, buffer = self._objective(model), self._open()
        if model.gradient_phase(self.phase, objective, self.gradient_steps, buffer, batch_size=self.batch_size):
            self._end(model)

    def _begin(self, model: Any) -> None:
        """What has to be done before the first update."""
        raise NotImplementedError

    def _objective(self, model: Any) -> Objective:
        """What is minimised."""
        raise NotImplementedError

    def _end(self, model: Any) -> None:
        """What has to be done after the last update."""


class PolicyReevaluation(_GradientPhase):
    """
    Evaluate the offline policy by the rule of online training (OCR-CFT's fitted Q evaluation, eq. 10 and 11; Luo et al.
    2024): values that a conservative objective has pushed down become optimistic, and a policy that came without a
    critic gets one. The policy is frozen. Half a million updates in the paper, before the first environment step.

    PPO has no action values: its V is fitted to the Monte-Carlo returns of the dataset (a million updates of 512
    transitions), see :class:`~sb3_o2o.objectives.MonteCarloValueObjective`.

    :param gradient_steps: updates, > 0
    :param ent_coef: temperature, fixed during the phase, > 0; by default the model's. 0.2 (medium data) or 0.5 (expert
        data) in the paper; online it is tuned from there
    :param fresh_critics: start with new critics, as the source does; False goes on with the offline ones
    :param batch_size: transitions per update, > 0; by default the model's
    :param dataset: offline data; by default those that the model was pre-trained on
    :raises ValueError: for a number out of range, or without a dataset
    """

    phase: ClassVar[str] = "reevaluation"
    search_space: ClassVar[SearchSpace] = {"ent_coef": Range(0.05, 1.0, log=True)}

    @checked
    def __init__(
        self,
        gradient_steps: _Updates = 500_000,
        ent_coef: Positive | None = None,
        fresh_critics: bool = True,
        batch_size: Count | None = None,
        dataset: AnyDataset = None,
    ):
        super().__init__(gradient_steps, ent_coef, batch_size, dataset)
        self.fresh_critics = fresh_critics

    def renews_critics(self, finished_phases: Sequence[str]) -> bool:
        """See :meth:`~sb3_o2o.finetuning.callback.FineTuningCallback.renews_critics`."""
        return self.fresh_critics and self.phase not in finished_phases

    def _init_callback(self) -> None:
        super()._init_callback()
        self.model.reevaluation_objective()  # one that cannot is refused now

    def _begin(self, model: Any) -> None:
        if self.fresh_critics:
            model.renew_critics()
        # a target policy is the frozen policy, not one that lags behind it; fresh critics leave frozen parameters alone
        model.copy_to_targets(critics=self.fresh_critics)

    def _objective(self, model: Any) -> Objective:
        objective: Objective = model.reevaluation_objective()
        return objective

    @property
    def _whole_episodes(self) -> bool:
        model: Any = self.model
        return bool(model.reevaluation_objective().whole_episodes)


class ValueAlignment(_GradientPhase):
    """
    Calibrate the critics with the offline policy (OCR-CFT, eq. 12 and 13 for SAC, 15, 43 and 44 for TD3; Luo et al.
    2024): the value of its own action is kept, and that of no other action may be larger than the policy allows. The
    actor is updated at the same time. Half a million updates in the paper, before the first environment step.
    Afterwards target networks equal their networks.

    :param gradient_steps: updates, > 0
    :param ent_coef: temperature, fixed during the phase, > 0; by default the model's. See :class:`PolicyReevaluation`
    :param distance_weight: beta, by how much values shrink with the distance of an action from the offline policy's,
        >= 0; for deterministic policies
    :param largest_distance: clamp of that distance, > 0; the model's ``target_policy_noise`` by default
    :param action_clip: largest action magnitude whose density is evaluated, in (0, 1); for policies with a density
    :param critics: ``"aligned"``, or what the paper compares it with in figure 1: the policy is updated alike on
        critics that stay as they were re-evaluated (``"fixed"``), or that go on by the online rule (``"iterative"``)
    :param batch_size: transitions per update, > 0; by default the model's
    :param dataset: offline data; by default those that the model was pre-trained on
    :raises ValueError: for a number out of range, or without a dataset
    """

    phase: ClassVar[str] = "alignment"
    search_space: ClassVar[SearchSpace] = {
        "ent_coef": Range(0.05, 1.0, log=True),
        "distance_weight": Range(0.1, 10.0, log=True),
    }

    @checked
    def __init__(
        self,
        gradient_steps: _Updates = 500_000,
        ent_coef: Positive | None = None,
        distance_weight: NotNegative = 1.0,
        largest_distance: Positive | None = None,
        action_clip: InnerFraction = 1 - 1e-4,
        critics: Literal["aligned", "fixed", "iterative"] = "aligned",
        batch_size: Count | None = None,
        dataset: AnyDataset = None,
    ):
        super().__init__(gradient_steps, ent_coef, batch_size, dataset)
        self.distance_weight = distance_weight
        self.largest_distance = largest_distance
        self.action_clip = action_clip
        self.critics = critics
        #: the offline policy, while the phase lasts
        self.policy: Any = None

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__()
        if self.policy is not None:
            state["policy"] = copy.deepcopy(self.policy).cpu()
        return state

    def _init_callback(self) -> None:
        super()._init_callback()
        model: Any = self.model
        if not hasattr(model, "critic_target"):
            raise ValueError(
                f"ValueAlignment calibrates action values, which {type(model).__name__} does not have: leave it out. "
                "AuxiliaryAdvantage is what O2PPO has in its place."
            )
        if not model.actor.stochastic and self.largest_distance is None and model.target_policy_noise == 0:
            raise ValueError(
                "ValueAlignment clamps distances at target_policy_noise, which is 0: pass largest_distance (0.2 in the "
                "paper's code), or no value would shrink."
            )
        if model.actor.stochastic and model.use_sde:
            raise ValueError("ValueAlignment scores actions under a squashed Gaussian, which gSDE is not.")

    def _on_training_start(self) -> None:
        super()._on_training_start()
        model: Any = self.model
        steps = model.phase_steps.get(self.phase, 0)
        if steps > 0 and not self._is_finished() and self.policy is None:
            raise ValueError(
                f"This model was saved inside the alignment, after {steps} updates, and this ValueAlignment does not "
                "know the policy from which it began: go on with the callbacks that are saved with it (give "
                "load_offline no finetuning; load_resume for those of learn), or start from the model before."
            )

    def _begin(self, model: Any) -> None:
        self.policy = frozen_copy(model.actor)

    def _objective(self, model: Any) -> Objective:
        self.policy.to(model.device)
        if self.critics != "aligned":
            return OnReevaluatedCriticsObjective(model, iterative=self.critics == "iterative")
        if model.actor.stochastic:
            return StochasticAlignmentObjective(model, self.policy, action_clip=self.action_clip)
        largest = model.target_policy_noise if self.largest_distance is None else self.largest_distance
        return DeterministicAlignmentObjective(
            model, self.policy, weight=self.distance_weight, largest_distance=largest
        )

    def _end(self, model: Any) -> None:
        model.copy_to_targets(critics=self.critics != "fixed")
        self.policy = None

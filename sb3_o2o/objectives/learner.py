"""What an objective may touch of the algorithm whose networks it trains."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Protocol

import torch as th
from gymnasium import spaces
from stable_baselines3.common.type_aliases import Schedule
from torch import nn

from sb3_o2o.networks.ensemble import EnsembleCritic
from sb3_o2o.objectives.batch import Batch, LossesAndMetrics
from sb3_o2o.objectives.draws import Draws


class LossHooks(Protocol):
    """
    The hooks of fine-tuning callbacks that losses ask, see :class:`~sb3_o2o.finetuning.FineTuningCallback`. Without
    callbacks each gives back what it was given. An objective that never asks one lists it in ``unused_hooks``.
    """

    def defined(self, name: str) -> list[Callable[..., Any]]:
        """:return: the methods of the callbacks that override the hook ``name``"""

    def next_actions(self, actions: th.Tensor, log_prob: th.Tensor | None, batch: Batch) -> th.Tensor:
        """:return: actions at which the TD target is evaluated, as ``actions``"""

    def next_values(self, values: th.Tensor, actions: th.Tensor, log_prob: th.Tensor | None, batch: Batch) -> th.Tensor:
        """:return: values to back up, as ``values``"""

    def actor_values(self, values: th.Tensor, actions: th.Tensor, batch: Batch) -> th.Tensor:
        """:return: values for the actor to maximise, ``(B,)``"""

    def td_target(self, target: th.Tensor, batch: Batch) -> th.Tensor:
        """:return: what critics are fitted to, as ``target``"""

    def imitated_actions(self, actions: th.Tensor, batch: Batch) -> th.Tensor:
        """:return: actions that an imitating policy is shown, ``(B, act)``"""

    def advantages(self, advantages: th.Tensor, batch: Batch) -> th.Tensor:
        """:return: advantages to weight imitation by, ``(B,)``"""

    def actor_losses(
        self, loss: th.Tensor, actions: th.Tensor, log_prob: th.Tensor | None, batch: Batch
    ) -> LossesAndMetrics:
        """:return: the actor's loss from ``loss`` per sample, ``(B,)``, with the callbacks' penalties and losses"""


class Learner(Protocol):
    """
    What every algorithm lets an objective rely on. An objective reads from it and forms losses; it steps no optimiser,
    and looks at no environment and no buffer. Objectives of one family are given more: :class:`CriticLearner`,
    :class:`SACLearner`, :class:`TD3Learner`, :class:`PPOLearner`.
    """

    #: where networks and batches are
    device: th.device
    #: where random numbers are drawn
    draws: Draws
    observation_space: spaces.Space
    action_space: spaces.Space
    #: discount factor
    gamma: float
    #: ``"pretraining"``, ``"warmup"``, ``"finetuning"``, a gradient-only phase of a callback, or None before the first
    phase: str | None
    #: environment steps made; while pre-training, gradient steps
    num_timesteps: int
    #: generalised state-dependent exploration: the actor draws its own noise
    use_sde: bool
    #: actor, critics and how they are made
    policy: Any
    #: learning rate of value networks, and of what an objective trains itself, by progress remaining from 1 to 0
    qf_lr_schedule: Schedule

    @property
    def n_finetuning_steps(self) -> int:
        """Environment steps of the fine-tuning run: what schedules count."""

    @property
    def actor(self) -> Any:
        """``rsample``, ``mode``, ``log_prob``, ``get_action_dist_params``, and whether it is ``stochastic``."""

    @property
    def action_dim(self) -> int:
        """Number of action dimensions."""

    @property
    def hooks(self) -> LossHooks:
        """What fine-tuning callbacks change of a loss."""


class CriticSet(Protocol):
    """Critics beside the algorithm's own, that an objective has losses for as well."""

    critic: EnsembleCritic
    critic_target: EnsembleCritic
    #: V(s), where the objective learns one
    value: nn.Module | None


class CriticLearner(Learner, Protocol):
    """An algorithm with action values: an ensemble of critics, and target networks that follow it."""

    critic: EnsembleCritic
    critic_target: EnsembleCritic
    #: critics in the ensemble, N
    n_critics: int
    #: target critics of a TD target, see :meth:`draw_critics`; None for all
    critic_subset: int | None
    #: what the actor maximises: the ``"min"`` or ``"mean"`` over critics, or the ``"first"``
    actor_critics: str
    #: steps over which a batch sums its rewards
    n_steps: int
    #: how far target networks move in each update, in (0, 1]
    tau: float
    #: name of the objective that this algorithm minimises online unless told otherwise
    default_online_objective: ClassVar[str]

    @property
    def finetuning_objective(self) -> Any:
        """The objective of ``learn``."""

    def draw_critics(self, size: int | None, name: str = "target_critics") -> th.Tensor | None:
        """
        :param size: how many; None for all
        :param name: of the draw, by which it can be replayed
        :return: indices of ``size`` critics, ``(size,)``; None for all
        """


class SACLearner(CriticLearner, Protocol):
    """SAC: a policy with a density, and a temperature."""

    #: logarithm of a temperature that is tuned, ``(1,)``; None for a fixed one
    log_ent_coef: th.Tensor | None
    #: entropy that a tuned temperature aims at
    target_entropy: str | float
    #: include the entropy in the TD target
    entropy_backup: bool

    def current_ent_coef(self) -> th.Tensor:
        """:return: the temperature alpha, without gradient, ``(1,)``"""


class TD3Learner(CriticLearner, Protocol):
    """TD3: a deterministic policy with a target network, whose target actions are smoothed by clipped noise."""

    #: standard deviation of that noise, on the scale of [-1, 1]
    target_policy_noise: float
    #: its largest magnitude
    target_noise_clip: float

    @property
    def actor_target(self) -> Any:
        """The actor's target network."""


class PPOLearner(Learner, Protocol):
    """PPO: a policy with a density and a V of its own (``policy.values``), and no action values."""

    @property
    def reevaluation_optimizer(self) -> th.optim.Optimizer:
        """Of V's regression to the returns of a dataset."""

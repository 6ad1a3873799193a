"""OPT's second phase: fresh critics, trained on the dataset and a few online transitions before fine-tuning."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, ClassVar, Literal

import numpy as np
import torch as th
from stable_baselines3.common.callbacks import BaseCallback
from torch.func import functional_call

from sb3_o2o.checked import checked
from sb3_o2o.data import MixedReplayBuffer
from sb3_o2o.data.sources import AnyDataset
from sb3_o2o.errors import warn
from sb3_o2o.finetuning.callback import FIRST_UPDATE
from sb3_o2o.finetuning.dual_critic import DualCritic
from sb3_o2o.finetuning.replay import _DatasetCallback
from sb3_o2o.finetuning.second_critics import SecondCritics
from sb3_o2o.kinds import Count, NotNegative, Positive
from sb3_o2o.objectives import Batch, LossesAndMetrics, Objective, Step
from sb3_o2o.objectives import finetuning_functional as FF
from sb3_o2o.search_space import Range, SearchSpace

#: of the phase; short, because it is part of the logger's keys
PHASE = "opt"


class OnlinePretraining(_DatasetCallback):
    """
    Online pre-training (OPT; Shin et al. 2025): collect with the frozen policy, then train a fresh second pair of
    critics, without environment steps, to adapt to the online transitions in one gradient step from the dataset
    (:class:`OnlinePretrainingObjective`). Use with :class:`DualCritic`, whose
    second critics they are. The paper's collection acts with exploration noise of 0.1: ``action_noise=0.1``.

    The collection counts as online steps. The pre-training lies between the last of these and the next, logs under
    ``finetune/opt/``, and can be interrupted and resumed anywhere. A model saved in the middle without its replay
    buffer collects anew.

    :param collect_steps: environment steps without updates, over all environments; 25000 in the paper
    :param gradient_steps: updates of the second critics; 50000 in the code
    :param meta: ``"second_order"`` (the paper's), ``"first_order"``, or ``"none"`` for plain TD on both batches
    :param learning_rate: of the second critics while they are pre-trained, > 0
    :param inner_learning_rate: step size of the inner update, >= 0
    :param gradient_weight: weight the online loss by ``min(L_off, L_on) / L_on``, as the code does
    :param target_interval: updates between two of the second target networks
    :param reset_optimizers: afterwards, actor and first critics start with fresh optimisers, as in the code. IQL's V
        and SAC's temperature, which the code does not have, keep theirs
    :param log_interval: updates between two logs
    :param dataset: what :meth:`~sb3_o2o.data.OfflineDataset.load` accepts; the dataset that the model was
        pre-trained on by default
    :raises ValueError: for an argument out of range
    """

    needs_replay_buffer = True
    exclusive = (FIRST_UPDATE,)
    search_space: ClassVar[SearchSpace] = {
        "learning_rate": Range(1e-5, 1e-3, log=True),
        "inner_learning_rate": Range(1e-5, 1e-3, log=True),
    }

    @checked
    def __init__(
        self,
        collect_steps: Count = 25_000,
        gradient_steps: Count = 50_000,
        meta: Literal["second_order", "first_order", "none"] = "second_order",
        learning_rate: Positive = 3e-4,
        inner_learning_rate: NotNegative = 3e-4,
        gradient_weight: bool = True,
        target_interval: Count = 2,
        reset_optimizers: bool = True,
        log_interval: Count = 1000,
        dataset: AnyDataset = None,
    ):
        super().__init__(dataset)
        self.collect_steps = collect_steps
        self.gradient_steps = gradient_steps
        self.meta = meta
        self.learning_rate = learning_rate
        self.inner_learning_rate = inner_learning_rate
        self.gradient_weight = gradient_weight
        self.target_interval = target_interval
        self.reset_optimizers = reset_optimizers
        self.log_interval = log_interval
        self.begin_new_run()

    def begin_new_run(self) -> None:
        """See :meth:`FineTuningCallback.begin_new_run`."""
        super().begin_new_run()
        self.n_collected, self.done = 0, False
        #: row of the replay buffer that holds the first online transition
        self.first_row = 0

    # -- collection ------------------------------------------------------------------------------------------------

    def _on_training_start(self) -> None:
        model: Any = self.model
        if self.done:
            return
        self._check(model)
        if self.n_collected == 0:
            model.phase_steps.pop(PHASE, None)  # of another run
        elif not self._are_held(model.replay_buffer):
            warn(
                f"The {self.n_collected} collected transitions were not saved with the model: OnlinePretraining "
                "collects anew. save_resume, or save_replay_buffer, keeps them.",
            )
            self.n_collected = 0
        self.check_length(model._total_timesteps - model.num_timesteps)
        self._open()
        model.set_phase("warmup")

    def _are_held(self, buffer: Any) -> bool:
        """Whether a buffer holds what was collected: the dataset may have been loaded into a new one."""
        return buffer.full or buffer.pos * buffer.n_envs >= self.first_row * buffer.n_envs + self.n_collected

    def check_run(self, callbacks: list[BaseCallback]) -> None:
        """See :meth:`FineTuningCallback.check_run`."""
        if not self.done and not any(isinstance(callback, DualCritic) for callback in callbacks):
            raise ValueError("OnlinePretraining trains a second pair of critics that nothing uses: add DualCritic.")
        if not self.done and isinstance(self.model.replay_buffer, MixedReplayBuffer):
            raise ValueError(
                "OnlinePretraining needs online transitions apart from the dataset's, which MixedReplayBuffer mixes: "
                "use SymmetricReplay or DatasetReplay."
            )

    def _check(self, model: Any) -> None:
        if model.finetuning_run.started:
            raise ValueError(
                "OnlinePretraining comes before the first online update, and this model has made some: start from "
                "load_offline."
            )

    def check_length(self, n_steps: int) -> None:
        """See :meth:`FineTuningCallback.check_length`."""
        if not self.done and self.n_collected + n_steps < self.collect_steps:
            raise ValueError(
                f"OnlinePretraining(collect_steps={self.collect_steps}) collects longer than learn would last: "
                f"{n_steps} steps to go, {self.n_collected} collected before. Raise total_timesteps or lower "
                "collect_steps."
            )

    def _on_step(self) -> bool:
        if not self.done:
            model: Any = self.model
            if self.n_collected == 0:
                self.first_row = model.replay_buffer.pos  # where this step's transition will be stored
            self.n_collected += model.n_envs
        return True

    def allow_update(self) -> bool:
        """:return: whether the second critics are pre-trained."""
        return self.done

    def _online_batch(self, batch_size: int) -> Batch:
        """What was collected since the first online step: the buffer may also hold the dataset."""
        model: Any = self.model
        buffer, env = model.replay_buffer, model.get_vec_normalize_env()
        if self.first_row == 0 and not buffer.full:
            return model.to_batch(buffer.sample(batch_size, env=env))
        n_rows = min(self.n_collected // model.n_envs, buffer.buffer_size)
        rows = (self.first_row + np.random.randint(0, n_rows, size=batch_size)) % buffer.buffer_size
        return model.to_batch(buffer._get_samples(rows, env=env))

    # -- pre-training ----------------------------------------------------------------------------------------------

    def before_rollout(self) -> None:
        """Pre-train once enough is collected."""
        model: Any = self.model
        if self.done or self.n_collected < self.collect_steps or not model.can_sample():
            return
        dual = next(callback for callback in model.call.callbacks if isinstance(callback, DualCritic))
        critics = dual.critics
        if critics is None or PHASE not in model.phase_steps:
            critics = dual.critics = SecondCritics(model.finetuning_objective)
        objective = OnlinePretrainingObjective(model, critics, self._online_batch, self)
        if not model.gradient_phase(PHASE, objective, self.gradient_steps, self._open(), self.log_interval):
            return
        self.done, self.buffer = True, None
        if self.reset_optimizers:
            for optimizer in (model.actor.optimizer, model.critic.optimizer):
                optimizer.state.clear()


class OnlinePretrainingObjective(Objective):
    """
    ``L_off(psi) + w L_on(psi - a grad L_off(psi))`` for the second critics psi (Shin et al. 2025): the TD errors of
    the online objective on a batch of the dataset and on one of fresh transitions, towards the second critics' own
    target networks. Policy and first critics stay as they are. For IQL psi are Q2 and V2, and each loss is the sum of
    theirs; that and SAC's entropy in the targets are ours, the paper has equations for TD3 alone.

    A gradient of a gradient is not compiled: this step runs eagerly.

    :param model: the algorithm beside whose critics these are
    :param critics: the second critics
    :param online_batch: draws fresh transitions, given their number
    :param settings: ``meta``, ``inner_learning_rate``, ``learning_rate``, ``gradient_weight`` and ``target_interval``
    """

    trains_critic: ClassVar[bool] = False
    delayed = False
    moves_targets: ClassVar[bool] = False

    def __init__(
        self, model: Any, critics: SecondCritics, online_batch: Callable[[int], Batch], settings: OnlinePretraining
    ):
        super().__init__(model)
        # in a tuple: a callback owns them, this module must not register them
        self._critics = (critics,)
        self.optimizers = critics.optimizers
        self.follows = {"second_critic": "critic"}
        self.online_batch = online_batch
        self.settings = settings

    @property
    def model(self) -> Any:
        """The algorithm beside whose critics these are."""
        return self._model[0]

    def learning_rate_factor(self, name: str, progress_remaining: float) -> float:
        """See :meth:`Objective.learning_rate_factor`."""
        if name != "second_critic":
            return 1.0
        return self.settings.learning_rate / self.model.qf_lr_schedule(progress_remaining)

    def steps(self, batch: Batch, actor_batch: Batch | None) -> Iterator[Step]:
        """See :meth:`Objective.steps`; ``batch`` comes from the dataset."""
        model = self.model
        online, draws = self.online_batch(len(batch)), model.finetuning_objective.second_draws
        n_made = model.phase_steps[model.phase]
        yield Step(self.losses, (batch, draws(batch), online, draws(online)), eager=True)
        if (n_made + 1) % self.settings.target_interval == 0:
            self._critics[0].update_targets(model.tau)

    def losses(
        self, offline: Batch, offline_draws: tuple[Any, ...], online: Batch, online_draws: tuple[Any, ...]
    ) -> LossesAndMetrics:
        """
        :param offline: transitions of the dataset
        :param offline_draws: their random numbers, see :meth:`Objective.second_draws`
        :param online: fresh transitions
        :param online_draws: theirs
        :return: the same loss for each optimiser of the second critics
        """
        (second,), td_losses = self._critics, self.model.finetuning_objective.second_losses

        def loss(parameters: dict[str, th.Tensor], batch: Batch, draws: tuple[Any, ...]) -> th.Tensor:
            losses, _ = functional_call(second, parameters, (td_losses, batch, *draws))
            return th.stack(list(losses.values())).sum()

        total, metrics = FF.meta_adaptation_loss(
            lambda parameters: loss(parameters, offline, offline_draws),
            lambda parameters: loss(parameters, online, online_draws),
            second.trained_parameters(),
            rate=self.settings.inner_learning_rate,
            meta=self.settings.meta,
            weighted=self.settings.gradient_weight,
        )
        return dict.fromkeys(second.optimizers, total), metrics

"""What updates rely on of an algorithm."""

from __future__ import annotations

from typing import Any, Protocol

import torch as th
from gymnasium import spaces
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.type_aliases import Schedule
from stable_baselines3.common.vec_env import VecNormalize

from sb3_o2o.data import OfflineDataset, OfflineReplayBuffer
from sb3_o2o.objectives import Batch, Objective
from sb3_o2o.updates.call import Call
from sb3_o2o.updates.finite import FiniteWatch
from sb3_o2o.updates.hooks import Hooks
from sb3_o2o.updates.metrics import Metrics


class Loop(Protocol):
    """The algorithm's :class:`~sb3_o2o.updates.loop.UpdateLoop`."""

    metrics: Metrics
    watch: FiniteWatch

    def run(self, gradient_steps: int, batch_size: int) -> None:
        """Make updates on sampled batches."""

    def gradient_step(self, batch: Batch, actor_batch: Batch | None, prepare: bool = False) -> dict[str, th.Tensor]:
        """:return: losses and metrics of what steps optimisers in one update"""

    def record(self, prefix: str) -> None:
        """Hand what has been summed to the logger."""


class Trainee(Protocol):
    """
    An algorithm, as the functions and objects of this room see it. They do the work that all algorithms have in
    common; an algorithm says what is its own: optimisers and their learning rates, when actor and targets move, and
    what it learns from online.
    """

    #: largest norm of the actor's gradient; None for any
    actor_max_grad_norm: float | None

    # -- constructor arguments, described at the algorithms
    explicit_arguments: tuple[str, ...]
    recipe_pretrain_steps: int
    finetuning: list[Any]
    gamma: float
    seed: int | None
    reward_scale: float
    reward_shift: float
    dataset: Any
    dataset_kwargs: dict[str, Any] | None
    pretrain_steps: int
    compile: bool
    on_nonfinite: str
    verbose: int
    tensorboard_log: str | None
    # -- saved with the model
    #: ``"pretraining"``, ``"warmup"``, ``"finetuning"``, a gradient-only phase of a callback, or None before the first
    phase: str | None
    n_pretrain_steps: int
    #: gradient-only phases: updates made of each, and the names of those that are complete
    phase_steps: dict[str, int]
    finished_phases: list[str]
    #: the policy has the statistics of a dataset
    has_statistics: bool
    #: buffers on datasets that were opened so far: each has a random stream of its own
    n_offline_buffers: int
    #: while pre-training, SB3's counters of environment steps; None otherwise
    online_counters: tuple[int, int, float] | None
    # -- not saved with the model
    device: th.device
    observation_space: spaces.Space
    action_space: spaces.Space
    policy: Any
    hooks: Hooks
    call: Call
    offline_objective: Objective
    finetuning_objective: Objective
    offline_buffer: OfflineReplayBuffer | None
    #: source of the dataset of the last ``pretrain``
    pretrained_on: Any
    #: objective and buffer of a gradient-only phase
    phase_in_progress: tuple[Objective, OfflineReplayBuffer] | None
    # -- SB3's
    num_timesteps: int
    start_time: float
    ep_info_buffer: Any
    ep_success_buffer: Any
    _n_updates: int
    _total_timesteps: int
    _num_timesteps_at_start: int
    _current_progress_remaining: float
    _stats_window_size: int
    _custom_logger: bool
    _logger: Logger

    @property
    def loop(self) -> Loop:
        """Makes updates."""

    @property
    def logger(self) -> Logger:
        """SB3's logger."""

    def get_vec_normalize_env(self) -> VecNormalize | None: ...

    def _update_current_progress_remaining(self, num_timesteps: int, total_timesteps: int) -> None:
        """See SB3."""

    @property
    def actor_batch(self) -> str:
        """The actor's ``"minibatch"``, or the whole ``"block"``."""

    @property
    def active_objective(self) -> Objective:
        """What the next gradient step minimises."""

    def set_phase(self, phase: str) -> None: ...

    def begin_new_run(self) -> None:
        """Forget what belongs to one fine-tuning run."""

    def act_from_the_first_step(self) -> None:
        """Begin without random actions, as a pre-trained policy does."""

    # -- data

    @property
    def offline_batch_size(self) -> int:
        """Transitions per update of offline phases."""

    @property
    def offline_n_steps(self) -> int:
        """Steps over which a batch of the dataset sums its rewards."""

    def check_reward_scale(self) -> None:
        """:raises ValueError: where rewards reach a batch on another way than through this model"""

    def dataset_opened(self, dataset: OfflineDataset) -> None:
        """A dataset is about to be drawn from."""

    def sample_online(self, batch_size: int) -> Any:
        """:return: samples of a buffer, from whichever callback answers or from the online buffer"""

    # -- updates

    def optimizers(self) -> dict[str, th.optim.Optimizer]:
        """:return: the algorithm's optimisers, by the names that objectives yield"""

    def learning_rates(self) -> dict[str, Schedule]:
        """:return: the learning rate of each optimiser"""

    def draws_blocks(self, gradient_steps: int) -> bool:
        """:return: whether the transitions of all gradient steps are sampled at once"""

    def is_actor_step(self) -> bool:
        """:return: whether the actor steps in this update; asked once in each"""

    def is_target_step(self, step: int, is_actor_step: bool) -> bool:
        """:return: whether the target networks follow in this update, the ``step``-th since the last rollout"""

    def update_targets(self) -> None:
        """Let the target networks follow."""

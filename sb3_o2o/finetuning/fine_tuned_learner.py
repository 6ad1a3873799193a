"""What fine-tuning callbacks may rely on of the algorithm."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from sb3_o2o.data import OfflineReplayBuffer
from sb3_o2o.objectives.learner import Learner

if TYPE_CHECKING:
    from sb3_o2o.objectives import Batch, Objective


class FineTunedLearner(Learner, Protocol):
    """
    What a callback may rely on of the algorithm that it is given as ``self.model``, beside what objectives may touch
    (:class:`~sb3_o2o.objectives.Learner` and the protocols of its families). It is a ``BaseAlgorithm`` of
    Stable-Baselines3's as well.
    """

    #: what a dataset is opened from where the callback has none: the constructor's, or that of the last ``pretrain``
    dataset: Any
    #: of the last ``pretrain``, until it is saved; None before
    offline_buffer: Any
    #: gradient steps of ``pretrain`` so far
    n_pretrain_steps: int
    #: rewards on the scale of training are ``reward_scale * r + reward_shift``
    reward_scale: float
    reward_shift: float
    #: the fine-tuning callbacks that are saved with the model
    finetuning: list[Any]
    #: gradient-only phases of fine-tuning: updates made of each, and the names of those that are complete
    phase_steps: dict[str, int]
    finished_phases: list[str]
    #: of off-policy algorithms: online transitions
    replay_buffer: Any
    #: environments side by side
    n_envs: int
    #: makes updates
    loop: Any

    @property
    def finetuning_objective(self) -> Objective:
        """What ``learn`` minimises."""

    # methods that users call as well: the algorithms, such as :class:`~sb3_o2o.O2OSAC`, describe them

    def set_phase(self, phase: str) -> None: ...

    def request_stop(self) -> None: ...

    def gradient_phase(
        self,
        name: str,
        objective: Objective,
        gradient_steps: int,
        buffer: OfflineReplayBuffer,
        log_interval: int = 1000,
        batch_size: int | None = None,
    ) -> bool: ...

    def open_offline_buffer(
        self, source: Any = None, for_whom: str = "pretrain", *, whole_episodes: bool = False
    ) -> OfflineReplayBuffer: ...

    def to_batch(self, samples: Any) -> Batch: ...

    def copy_to_targets(self, critics: bool = True) -> None: ...

    def renew_critics(self) -> None: ...

    def renew_actor(self) -> None: ...

    def renew_learner(self) -> None: ...

    def reevaluation_objective(self) -> Objective: ...

    def get_vec_normalize_env(self) -> Any: ...

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = False
    ) -> tuple[np.ndarray, Any]: ...

    def save(self, path: Any, exclude: Any = None, include: Any = None) -> None: ...

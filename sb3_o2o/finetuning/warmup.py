"""WSRL's warm-up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from sb3_o2o.checked import checked
from sb3_o2o.finetuning.callback import FIRST_UPDATE, FineTuningCallback
from sb3_o2o.kinds import CountFromZero
from sb3_o2o.search_space import Range, SearchSpace


class Warmup(FineTuningCallback):
    """
    Collect with the pre-trained policy's own sampled actions before the first online update, so that the replay
    buffer starts with what that policy does (WSRL, algorithm 1). Each fine-tuning run warms up once. One whose replay
    buffer was not saved does so again where ``learn`` counts from zero.

    :param steps: environment steps without updates, over all environments; 5000 in the paper
    :param freeze_policy_steps: environment steps after these in which critics learn and the policy stays as it is:
        WSRL's ablation, with 10,000 and 30,000, which does not stand in for a warm-up
    :param fresh_critics: begin the run with new critics. With ``freeze_policy_steps`` they learn from what the
        pre-trained policy does before it moves (PORL, Xiao et al. 2025): a policy alone is enough to start from
    """

    needs_replay_buffer = True
    exclusive = (FIRST_UPDATE,)
    search_space: ClassVar[SearchSpace] = {"steps": Range(500, 10_000, log=True)}

    @checked
    def __init__(
        self, steps: CountFromZero = 5000, freeze_policy_steps: CountFromZero = 0, fresh_critics: bool = False
    ):
        super().__init__()
        self.steps = steps
        self.freeze_policy_steps = freeze_policy_steps
        self.fresh_critics = fresh_critics
        self.begin_new_run()

    def begin_new_run(self) -> None:
        """See :meth:`FineTuningCallback.begin_new_run`."""
        #: environment steps of the run before it
        self.start = 0
        self.has_renewed = False

    def renews_critics(self, finished_phases: Sequence[str]) -> bool:
        """See :meth:`FineTuningCallback.renews_critics`."""
        return self.fresh_critics and not self.has_renewed

    def _init_callback(self) -> None:
        # before other callbacks fill the buffer
        self._starts_now = self.model.num_timesteps == 0 and self.model.replay_buffer.size() == 0

    def _on_training_start(self) -> None:
        model: Any = self.model
        if self._starts_now:
            self.start, self._starts_now = model.n_finetuning_steps, False
        is_pretrained = model.n_pretrain_steps >= model.pretrain_steps  # and not stopped in the middle of it
        if self.renews_critics(()) and is_pretrained and not model.finetuning_run.started:
            model.renew_critics()
            model.copy_to_targets()
            self.has_renewed = True
        if not self.done and self.steps > 0:
            model.set_phase("warmup")

    @property
    def done(self) -> bool:
        """Whether updates may be made."""
        return self.model.n_finetuning_steps - self.start > self.steps

    def allow_update(self) -> bool:
        """:return: whether the warm-up is over."""
        return self.done

    def allow_actor_update(self) -> bool:
        """:return: whether the policy is no longer frozen"""
        return self.model.n_finetuning_steps - self.start > self.steps + self.freeze_policy_steps

"""Updates while the environments step: for slow simulators, and robots at a fixed control rate."""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

from sb3_o2o.checked import checked
from sb3_o2o.finetuning.callback import FineTuningCallback
from sb3_o2o.kinds import CountFromZero


class AsynchronousUpdates(FineTuningCallback):
    """
    Makes the updates that follow an environment step while the next one runs, which costs a thread: a step then takes
    as long as the slower of the two, and not their sum. The action of a step is chosen before the updates that the step
    before it has brought, so a run is another one than without this callback.

    What cannot be done in time lags behind, and the next action does not wait for it, but for the updates of one step
    at most, which may be under way. What lags behind by more than ``max_lag`` steps is waited for. With ``max_lag=0``
    nothing lags: such a run comes out the same every time. Otherwise when an update is made depends on the clock.

    Logged: ``finetune/update_lag``, steps whose updates are still to be made; ``finetune/longest_wait``, the longest
    that a finished step has waited for updates, in seconds.

    :param max_lag: environment steps whose updates may lag behind (of a recipe's with several environments, which makes
        its updates for each: rounds of them)
    """

    needs_replay_buffer = True

    @checked
    def __init__(self, max_lag: CountFromZero = 10):
        super().__init__()
        self.max_lag = max_lag
        self.begin_new_run()

    def begin_new_run(self) -> None:
        """See :meth:`FineTuningCallback.begin_new_run`."""
        #: what is still to be done: updates, and transitions in each
        self.pending: list[tuple[int, int]] = []
        #: the longest that a finished step has waited for updates, in seconds
        self.longest_wait = 0.0

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__()
        state.pop("_thread", None)
        return {**state, "pending": []}  # a saved model has no transitions to make them on

    def _on_training_start(self) -> None:
        environments = self.training_env.unwrapped
        environments.__dict__.pop("step_wait", None)  # of a run that an exception has ended
        step_wait = environments.step_wait
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="environments")
        environments.step_wait = lambda: self._update_during(step_wait)  # type: ignore[method-assign]

    def defer_updates(self, gradient_steps: int, batch_size: int) -> bool:
        """See :meth:`FineTuningCallback.defer_updates`: they are made during the next step."""
        self.pending.append((gradient_steps, batch_size))
        self.logger.record("finetune/update_lag", len(self.pending))
        return True

    def _update_during(self, step_wait: Any) -> Any:
        """Runs in the main thread, in the place of the environments' own ``step_wait``."""
        step: Future[tuple[Any, float]] = self._thread.submit(lambda: (step_wait(), time.perf_counter()))
        try:
            while self.pending and not step.done():
                self._update()
            result, finished = step.result()
            while len(self.pending) > self.max_lag:
                self._update()
        except BaseException:
            wait([step])  # nobody steps the environments behind the back of whoever handles this
            self._close()
            raise
        self.longest_wait = max(self.longest_wait, time.perf_counter() - finished)
        self.logger.record("finetune/longest_wait", self.longest_wait)
        return result

    def _update(self) -> None:
        model: Any = self.model
        model.make_updates(*self.pending.pop(0))

    def _on_training_end(self) -> None:
        self._close()
        # a run that was stopped goes on with them, after the next action: as if it had not been
        model: Any = self.model
        while self.pending and model.num_timesteps >= model._total_timesteps:
            self._update()

    def _close(self) -> None:
        self.training_env.unwrapped.__dict__.pop("step_wait", None)
        self.__dict__.pop("_thread").shutdown()  # nobody could copy the model with it

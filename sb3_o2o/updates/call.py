"""The present call of ``learn`` or ``pretrain``: its callbacks, and the points at which it can be left."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger

from sb3_o2o.updates.bars import close_bars
from sb3_o2o.updates.callback_states import State, restore, states_of
from sb3_o2o.updates.hooks import Hooks, walk
from sb3_o2o.updates.logs import Log, log_again, waiting
from sb3_o2o.updates.stock_files import write_evaluations_whole


class Interruption(NamedTuple):
    """What a call that is interrupted leaves to the next one of its kind."""

    #: the call was ``pretrain``
    offline: bool
    #: of each callback
    states: list[State]
    #: what waited to be logged; bundles of earlier versions have none
    log: Log | None = None


class Call:
    """
    A call is left at clean points alone, where nothing is half-done: between two updates, and before a rollout. What
    is asked for elsewhere, to stop or to write a resume bundle, waits until then.

    Kept over an interruption: :meth:`interruption`, and :attr:`finished`. A saved model has none of it.
    """

    def __init__(self) -> None:
        #: callbacks that are driven, nested ones included; none between two calls
        self.callbacks: list[BaseCallback] = []
        #: whether the last call was ``pretrain``
        self.offline = False
        #: this call goes on with one that was interrupted
        self.goes_on = False
        #: rollouts have begun
        self.is_collecting = False
        #: this call has begun with new episodes in all environments, and callbacks do not know it yet
        self.begins_episodes = False
        self.shows_progress = False
        #: how often the updates that follow the last rollout are made
        self.rounds = 1
        #: states of the callbacks of the last call, those of the constructor apart
        self.finished: Sequence[State] = ()
        #: of an interrupted call, until the next one of the same kind
        self.interrupted: Interruption | None = None
        self._stop_requested = False
        self._waiting: dict[str, Callable[[], None]] = {}
        self._before_stop: list[Callable[[], None]] = []
        self._at_end: list[Callable[[], None]] = []
        self._is_running = False

    # -- callbacks -------------------------------------------------------------------------------------------------

    def take(self, callback: BaseCallback, offline: bool, logger: Logger) -> None:
        """
        A call begins: its callbacks and its log are given the state of an interrupted call of the same kind.

        :param callback: all of them
        :param offline: the call is ``pretrain``
        :param logger: of the call
        """
        self.callbacks, self.offline = list(walk(callback)), offline
        self._before_stop = []
        self.at_end(write_evaluations_whole(self.callbacks))
        self.at_end(partial(close_bars, self.callbacks))
        saved, self.interrupted = self.interrupted, None
        self.goes_on = saved is not None and saved.offline == offline
        if saved is not None and self.goes_on:
            restore(self.callbacks, saved.states)
            log_again(logger, saved.log or {})

    def let_go(self, own: Sequence[BaseCallback], hooks: Hooks) -> None:
        """
        A call is over: its callbacks are none of the model's, and hold environments and all of the call. A bundle that
        is asked for afterwards still knows their states.

        :param own: callbacks of the constructor, which stay
        :param hooks: who is told what
        """

        def is_own(callback: Any) -> bool:
            return any(callback is each for each in own)

        if self.callbacks:
            self.finished = states_of(each for each in self.callbacks if not is_own(each))
        self.callbacks, self.rounds = [], 1
        hooks.deliver_to(each for each in hooks.callbacks() if is_own(each))
        self._before_stop = []
        leaving, self._at_end = self._at_end, []
        for action in leaving:
            action()
        for callback in own:
            callback.parent, callback.locals, callback.globals = None, {}, {}  # type: ignore[assignment]

    def interruption(self, own: Sequence[BaseCallback], logger: Logger | None) -> Interruption:
        """
        :param own: callbacks of the constructor
        :param logger: of the model; None where it has none yet
        :return: what this call or the last would leave if it were interrupted now; after a call nothing waits to be
            logged, and a bundle that is written again before any call hands on what it was given
        """
        if self.interrupted is not None:
            return self.interrupted
        if self.callbacks:
            return Interruption(self.offline, states_of(self.callbacks), None if logger is None else waiting(logger))
        return Interruption(self.offline, [*([] if self.offline else states_of(own)), *self.finished])

    # -- clean points ----------------------------------------------------------------------------------------------

    def request_stop(self) -> None:
        """End the call at the next clean point."""
        self._stop_requested = True

    def at_clean_point(self, action: Callable[[], None], what: str = "") -> None:
        """
        :param action: to be done at the next clean point or the end of the call; at once between two calls
        :param what: it makes; of several that make the same, the last one counts
        """
        if self._is_running:
            self._waiting[what] = action
        else:
            action()

    def before_stop(self, action: Callable[[], None]) -> None:
        """
        :param action: to be done at the clean point where this call is stopped, if it is
        """
        self._before_stop.append(action)

    def at_end(self, action: Callable[[], None]) -> None:
        """
        :param action: to be done when this call is over, however it ends
        """
        self._at_end.append(action)

    def clean_point(self) -> bool:
        """
        Nothing is half-done here: do what waits for that.

        :return: whether to stop
        """
        self._act()
        stop, self._stop_requested = self._stop_requested, False
        for action in self._before_stop if stop else ():
            action()
        return stop

    @contextmanager
    def running(self) -> Iterator[None]:
        """
        What is asked for inside waits for a clean point; the end of the outermost call is one, unless it ends in an
        error, which may leave anything half-done.
        """
        outer, self._is_running = self._is_running, True
        try:
            yield
        except BaseException:
            self._waiting.clear()
            raise
        finally:
            self._is_running = outer
        if not outer:
            self._act()

    def _act(self) -> None:
        waiting, self._waiting = self._waiting, {}
        for action in waiting.values():
            action()

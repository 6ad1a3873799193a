"""Signals that end a run where nothing is half-done."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Annotated, Any

from sb3_o2o.checked import checked
from sb3_o2o.objectives.objective import MODEL

#: Ctrl-C; what schedulers and ``kill`` send; what a terminal sends when it closes, which Windows does not know
SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


@dataclass
class Stopped:
    """
    :param by: the signal that came, None as long as none did
    """

    by: int | None = None


@checked
@contextmanager
def stop_on_signals(model: Annotated[Any, MODEL]) -> Iterator[Stopped]:
    """
    Inside, the first SIGINT (Ctrl-C), SIGTERM or SIGHUP ends ``learn`` or ``pretrain`` at the next point where nothing
    is half-done, and a :class:`~sb3_o2o.resume.ResumeBundle` writes its bundle there. A second one raises
    ``KeyboardInterrupt`` at once. Signals that the process ignores, as SIGHUP under ``nohup``, stay ignored. In another
    thread than the main one nothing changes: Python lets only that one handle signals.

    :param model: an algorithm
    :return: says which signal came
    """
    stopped = Stopped()

    def ask(number: int, frame: FrameType | None) -> None:
        if stopped.by is not None:
            raise KeyboardInterrupt
        stopped.by = number
        if number == getattr(signal, "SIGHUP", None):
            _leave_terminal()
        model.request_stop()

    in_main_thread = threading.current_thread() is threading.main_thread()
    heard = [each for each in SIGNALS if signal.getsignal(each) is not signal.SIG_IGN] if in_main_thread else []
    previous = {number: signal.signal(number, ask) for number in heard}
    try:
        yield stopped
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _leave_terminal() -> None:
    """The terminal is gone: a progress bar that is drawn there would end the run before its bundle is written."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.__stdout__, sys.__stderr__):
        if stream is not None and stream.isatty():
            os.dup2(nowhere, stream.fileno())
    os.close(nowhere)

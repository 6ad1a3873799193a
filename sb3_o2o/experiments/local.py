"""Runs on this machine: each in a process of its own, or all in this one."""

import os
import signal
import subprocess
import sys
from pathlib import Path

from sb3_o2o.experiments.execution import execute
from sb3_o2o.experiments.grid_folder import INTERRUPTED


class LocalProcesses:
    """
    One process for each run.

    :param workers: runs at the same time
    :param threads: CPU threads of each
    :param trust: whether files may name modules to be imported
    """

    def __init__(self, workers: int, threads: int, trust: bool = False):
        self.workers: int | None = workers
        self.threads, self.trust = threads, trust

    def start(self, folder: Path) -> "_Process":
        """See :class:`~sb3_o2o.experiments.schedule.Launcher`."""
        # numerical libraries read it when they are imported; the run decides afterwards
        environment = {**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(self.threads))}
        command = [sys.executable, "-m", "sb3_o2o.experiments.worker"]
        with (folder / "log.txt").open("ab") as log:
            process = subprocess.Popen(
                [*command, str(folder), str(self.threads), *["--trust"] * self.trust],
                stdin=subprocess.PIPE,  # closes when this process dies, which the worker takes as a stop
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,  # a terminal's Ctrl-C is for this process, which hands it on
            )
        return _Process(process)

    def close(self) -> None:
        """See :class:`~sb3_o2o.experiments.schedule.Launcher`."""


class _Process:
    def __init__(self, process: "subprocess.Popen[bytes]"):
        self.process = process

    def is_over(self) -> bool:
        return self.process.poll() is not None

    def ending(self) -> str:
        code = self.process.returncode
        if code < 0:
            return f"its process was killed by {signal.Signals(-code).name}"
        return f"its process ended with exit status {code}, see log.txt"

    def stop(self, at_once: bool) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL if at_once else signal.SIGINT)


class InThisProcess:
    """All runs one after the other in this process, for debuggers. Ctrl-C stops the present run, and the others."""

    workers: int | None = 1

    def start(self, folder: Path) -> "_Done":
        """See :class:`~sb3_o2o.experiments.schedule.Launcher`."""
        if execute(folder) == INTERRUPTED:
            signal.raise_signal(signal.SIGINT)  # training has answered it, and the others shall hear of it
        return _Done()

    def close(self) -> None:
        """See :class:`~sb3_o2o.experiments.schedule.Launcher`."""


class _Done:
    def is_over(self) -> bool:
        return True

    def ending(self) -> str:
        return ""

    def stop(self, at_once: bool) -> None:
        """It has ended."""

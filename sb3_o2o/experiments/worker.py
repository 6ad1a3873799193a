"""
The process of one run: ``python -m sb3_o2o.experiments.worker FOLDER THREADS [--trust]``.

It stops between two updates, and saves all that is needed to go on, at SIGINT or SIGTERM, and where its standard input
ends: that is the process that started it, gone.
"""

import os
import signal
import sys
import threading
from pathlib import Path


def _stop_with_parent() -> None:
    # not by ``sys.stdin``, whose lock this thread would hold where the process ends: Python aborts there
    while os.read(sys.stdin.fileno(), 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def main() -> int:
    """:return: exit status: 0 finished, 130 interrupted, 1 failed"""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # until training has a handler of its own
    threading.Thread(target=_stop_with_parent, daemon=True).start()
    from sb3_o2o.experiments.execution import execute
    from sb3_o2o.experiments.grid_folder import FINISHED, INTERRUPTED

    try:
        state = execute(Path(sys.argv[1]), int(sys.argv[2]), trust="--trust" in sys.argv[3:])
    except KeyboardInterrupt:
        return 130
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    return {FINISHED: 0, INTERRUPTED: 130}.get(state, 1)


if __name__ == "__main__":
    sys.exit(main())

"""What Stable-Baselines3's callbacks write in place, written whole."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from stable_baselines3.common.callbacks import BaseCallback, EvalCallback

from sb3_o2o.files import write_whole

#: arrays that every ``evaluations.npz`` has, in the order in which they are written
_ARRAYS = {"timesteps.npy", "results.npy", "ep_lengths.npy"}


class _Whole(io.BytesIO):
    """
    What ``numpy.savez`` writes here replaces a file when it is complete. A zip says by flushing that it is closed, also
    where an array could not be written.

    :param path: of the file
    """

    def __init__(self, path: str):
        super().__init__()
        self._path = path

    def flush(self) -> None:
        """All of a zip is there."""
        if self.tell() > 0:
            contents = self.getvalue()
            with zipfile.ZipFile(io.BytesIO(contents)) as written:
                is_complete = set(written.namelist()) >= _ARRAYS
            if is_complete:
                write_whole(self._path, contents)
            self.seek(0)
            self.truncate()


def write_evaluations_whole(callbacks: Iterable[BaseCallback]) -> Callable[[], None]:
    """
    Let ``evaluations.npz`` of every ``EvalCallback`` be whole, or as it was before. Derived classes, objects with a
    step of their own and those that tell callbacks of a user's are left alone: they may do something else with
    the path.

    :param callbacks: of a call
    :return: undoes it, when the call is over
    """
    changed = [
        each for each in callbacks if type(each) is EvalCallback and each.log_path is not None and _is_stock(each)
    ]
    for callback in changed:
        vars(callback)["_on_step"] = partial(_step, callback)

    def undo() -> None:
        for callback in changed:
            vars(callback).pop("_on_step", None)

    return undo


def _is_stock(evaluation: EvalCallback) -> bool:
    if "_on_step" in vars(evaluation):
        return False
    told: list[Any] = [evaluation.callback, evaluation.callback_on_new_best]
    return all(each is None or type(each).__module__.startswith("stable_baselines3.") for each in told)


def _step(evaluation: EvalCallback) -> bool:
    path: Any = evaluation.log_path
    evaluation.log_path = _Whole(f"{path}.npz")  # type: ignore[assignment]
    try:
        return EvalCallback._on_step(evaluation)
    finally:
        evaluation.log_path = path

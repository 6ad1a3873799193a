"""What environments tell beside observations and rewards, copied in less time."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import numpy as np
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

#: values that nobody can change: the copy of a dictionary shares them
_UNCHANGING = frozenset(
    (float, int, bool, str, bytes, type(None), np.float64, np.float32, np.int64, np.int32, np.bool_)
)


class Infos(list[dict[str, Any]]):
    """The ``buf_infos`` of a ``DummyVecEnv``, which copies them deeply at every step; saved as the list that it is."""

    def __deepcopy__(self, memo: dict[int, Any]) -> list[dict[str, Any]]:
        return [_copied(info, memo) for info in self]

    def __reduce__(self) -> Any:
        return list, (list(self),)


def _copied(info: dict[str, Any], memo: dict[int, Any]) -> dict[str, Any]:
    if type(info) is dict and _UNCHANGING.issuperset(map(type, info.values())):
        return info.copy()
    return deepcopy(info, memo)


def copy_infos_quickly(env: VecEnv) -> None:
    """
    Numbers and texts need no copy of their own, and most infos hold nothing else.

    :param env: environments; those of ``DummyVecEnv`` copy quickly from now on, all others as before
    """
    innermost = env.unwrapped
    if isinstance(innermost, DummyVecEnv) and type(innermost.buf_infos) is list:
        innermost.buf_infos = Infos(innermost.buf_infos)

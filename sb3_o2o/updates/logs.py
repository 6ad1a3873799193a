"""What waits to be logged: taken out of the logger of a call, and given to that of the call that goes on with it."""

from __future__ import annotations

from typing import Any

import numpy as np
from stable_baselines3.common.logger import Logger

#: by name: a value, of how many it is the mean (0 for one that is none), and which formats leave it out
Log = dict[str, tuple[Any, int, tuple[str, ...]]]

#: pictures and videos are shown by the call that made them
_PLAIN = (bool, int, float, str, np.generic)


def waiting(logger: Logger) -> Log:
    """
    :param logger: of a call
    :return: what it was given since it last wrote
    """
    return {
        name: (value, logger.name_to_count.get(name, 0), tuple(logger.name_to_excluded.get(name, ())))
        for name, value in logger.name_to_value.items()
        if isinstance(value, _PLAIN)
    }


def log_again(logger: Logger, log: Log) -> None:
    """
    :param logger: of the call that goes on
    :param log: what :func:`waiting` returned
    """
    for name, (value, count, excluded) in log.items():
        logger.name_to_value[name], logger.name_to_excluded[name] = value, tuple(excluded)
        if count:
            logger.name_to_count[name] = count

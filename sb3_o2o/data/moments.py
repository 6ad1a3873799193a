"""Mean and deviation of more rows than memory may hold."""

import numpy as np

#: rows to look at in one go
_PART = 65536


def mean_and_variance(rows: np.ndarray, row_index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """
    :param rows: ``(R, *shape)``, possibly larger than memory
    :param row_index: rows that count, ``(N,)``
    :return: mean and population variance of each entry, ``shape`` float64
    """
    parts = [row_index[start : start + _PART] for start in range(0, len(row_index), _PART)]
    mean, variance = np.zeros(rows.shape[1:]), np.zeros(rows.shape[1:])
    for chosen in parts:
        mean += rows[chosen].sum(axis=0, dtype=np.float64) / len(row_index)
    # About the mean, in a second pass: the difference of two large sums would lose the digits of a small deviation
    for chosen in parts:
        variance += np.square(rows[chosen] - mean).sum(axis=0) / len(row_index)
    return mean, variance


def mean_and_std(rows: np.ndarray, row_index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """
    :param rows: ``(R, *shape)``, possibly larger than memory
    :param row_index: rows that count, ``(N,)``
    :return: mean and population standard deviation of each entry, ``shape`` float32
    """
    mean, variance = mean_and_variance(rows, row_index)
    return mean.astype(np.float32), np.sqrt(variance).astype(np.float32)

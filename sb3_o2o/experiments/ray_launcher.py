"""Runs on a Ray cluster: each a task of Ray Core, made again on another node when its node dies."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sb3_o2o.errors import missing_package
from sb3_o2o.experiments.execution import execute

#: How often a run is started again after its node or its process died.
RETRIES = 10


def _execute(path: str, threads: int, trust: bool) -> str:
    """What a node does: the run goes on from its last resume bundle, which lies on storage that all nodes share."""
    return execute(Path(path), threads, trust)


class RayTasks:
    """
    Each run is a task that asks for resources. Everything is in the run's folder, which all nodes must see under the
    same path: nothing else of Ray is used.

    :param address: of the cluster; None for the one that ``RAY_ADDRESS`` or ``ray start`` has made known, else a new
        one on this machine
    :param options: of the tasks, as ``ray.remote`` takes them: ``num_cpus`` (default 1, and as many CPU threads),
        ``num_gpus``, ``memory``, ``resources``, ``max_retries`` ...
    :param trust: whether files may name modules to be imported
    :raises ImportError: without ray
    :raises ValueError: there is no such cluster, or an option that ray does not know
    """

    #: the cluster decides
    workers: int | None = None

    def __init__(self, address: str | None = None, options: Mapping[str, Any] | None = None, trust: bool = False):
        try:
            import ray
        except ImportError as error:
            raise missing_package("--launcher ray needs", "ray", "ray", error) from error
        self.ray: Any = ray
        self.trust = trust
        chosen = {"num_cpus": 1, "max_retries": RETRIES, **(options or {})}
        self.threads = max(int(chosen["num_cpus"]), 1)
        self._is_own = not ray.is_initialized()
        if self._is_own:
            _connect(ray, address)
        try:
            # a failure of the run itself is written down and returned: what is left to retry is a death
            self.remote = ray.remote(**chosen, retry_exceptions=False)(_execute)
        except (ValueError, TypeError) as error:
            self.close()
            raise ValueError(f"Ray refuses {chosen}: {error}") from error

    def start(self, folder: Path) -> "_RayTask":
        """See :class:`~sb3_o2o.experiments.schedule.Launcher`."""
        return _RayTask(self.ray, self.remote.remote(str(folder), self.threads, self.trust))

    def close(self) -> None:
        """See :class:`~sb3_o2o.experiments.schedule.Launcher`."""
        if self._is_own:
            self.ray.shutdown()


def _connect(ray: Any, address: str | None) -> None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            ray.init(address=address, log_to_driver=False)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ValueError(f"There is no Ray cluster at {address!r}: {error}") from error


class _RayTask:
    def __init__(self, ray: Any, reference: Any):
        self.ray, self.reference = ray, reference

    def is_over(self) -> bool:
        ready, _ = self.ray.wait([self.reference], timeout=0)
        return bool(ready)

    def ending(self) -> str:
        try:
            return f"its task ended as {self.ray.get(self.reference)}"
        except Exception as error:  # Ray's own: of a lost node, of a cancelled task
            return f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"

    def stop(self, at_once: bool) -> None:
        self.ray.cancel(self.reference, force=at_once)

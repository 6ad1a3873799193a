"""Runs as Slurm jobs, by submitit: each goes on in a new job when its time is over or it is preempted."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sb3_o2o.errors import missing_package
from sb3_o2o.experiments.execution import execute


class _Run:
    """What a job does. It is pickled into the job's folder."""

    def __init__(self, path: str, threads: int, trust: bool):
        self.path, self.threads, self.trust = path, threads, trust

    def __call__(self) -> str:
        return execute(Path(self.path), self.threads, self.trust)

    def checkpoint(self) -> Any:
        """submitit asks for it when time is over or the job is preempted: the same again, from the last bundle."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(_Run(self.path, self.threads, self.trust))


class SlurmJobs:
    """
    Each run is a job. Its folder must be seen by all nodes under the same path.

    :param folder: where submitit keeps its scripts and logs
    :param options: of the jobs, as ``submitit.AutoExecutor.update_parameters`` takes them: ``timeout_min``,
        ``cpus_per_task`` (default 1, and as many CPU threads), ``mem_gb``, ``gpus_per_node``, ``slurm_partition`` ...
    :param cluster: submitit's name of another scheduler: ``local`` makes the jobs processes of this machine
    :param trust: whether files may name modules to be imported
    :raises ImportError: without submitit
    :raises ValueError: there is no Slurm here, or an option that submitit does not know
    """

    #: Slurm decides
    workers: int | None = None

    def __init__(
        self, folder: Path, options: Mapping[str, Any] | None = None, cluster: str = "slurm", trust: bool = False
    ):
        try:
            import submitit
        except ImportError as error:
            raise missing_package("--launcher slurm needs", "submitit", "slurm", error) from error
        chosen = {"cpus_per_task": 1, **(options or {})}
        self.trust = trust
        self.threads = int(chosen["cpus_per_task"])
        logging.getLogger("submitit").setLevel(logging.ERROR)
        try:
            self.executor = submitit.AutoExecutor(folder, cluster=cluster)
            self.executor.update_parameters(**chosen)
        except (RuntimeError, NameError, ValueError, TypeError) as error:
            raise ValueError(f"Slurm's jobs cannot be made with {chosen}: {error}") from error

    def start(self, folder: Path) -> "_SlurmTask":
        """See :class:`~sb3_o2o.experiments.schedule.Launcher`."""
        self.executor.update_parameters(name=folder.name)
        return _SlurmTask(self.executor.submit(_Run(str(folder), self.threads, self.trust)))

    def close(self) -> None:
        """See :class:`~sb3_o2o.experiments.schedule.Launcher`."""


class _SlurmTask:
    def __init__(self, job: Any):
        self.job = job

    def is_over(self) -> bool:
        return bool(self.job.done())

    def ending(self) -> str:
        return f"its job {self.job.job_id} ended as {self.job.state}, see {self.job.paths.stderr}"

    def stop(self, at_once: bool) -> None:
        """Slurm asks first, and kills what has not ended after a while: there is nothing harder to ask for."""
        self.job.cancel(check=False)

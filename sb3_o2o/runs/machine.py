"""On what was measured."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

from sb3_o2o.runs.threads import usable_cores


def describe_machine(device: str = "cpu") -> dict[str, Any]:
    """
    :param device: ``"cpu"`` or ``"cuda"``
    :return: processor, cores, memory, load and system, in plain types
    """
    import torch as th

    machine: dict[str, Any] = {
        "processor": _processor(),
        "cores": usable_cores(),
        "vector_instructions": th.backends.cpu.get_cpu_capability(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "load_average": [round(load, 2) for load in os.getloadavg()],
        "system": platform.platform(),
        "python": platform.python_version(),
    }
    if device == "cuda":
        machine["gpu"] = th.cuda.get_device_name()
    return machine


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()

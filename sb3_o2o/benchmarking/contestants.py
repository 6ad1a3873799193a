"""Who takes part, and in which environment."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sb3_o2o.benchmarking import peers as peers_package
from sb3_o2o.errors import unknown

PRECISIONS = ("fp32", "bf16")
DEVICES = ("cpu", "cuda")
#: peers by the module that their environment must hold
PEERS = ("sbx", "d3rlpy")
#: updates that SBX makes in one compiled loop where its fused form is measured
FUSED = 20


@dataclass(frozen=True)
class Competitor:
    """
    One column of the table.

    :param key: in the JSON
    :param label: in the table
    :param command: that starts its worker
    :param options: for its worker
    :param group: ``"ours"``, ``"stock"``, ``"peer"`` or ``"floor"``
    :param compiles: whether its first updates compile
    :param foreign: whether it runs in an environment that is not this one
    """

    key: str
    label: str
    command: tuple[str, ...]
    group: str
    options: dict[str, Any] = field(default_factory=dict)
    compiles: bool = False
    foreign: bool = False


def own_competitors(precisions: Sequence[str] = ("fp32",)) -> list[Competitor]:
    """
    :param precisions: of our matrix products, and of the floor's
    :return: ours, stock Stable-Baselines3, and the floor
    :raises ValueError: for an unknown precision, naming the nearest
    """
    ours = own_forms(_own_worker("ours"), precisions)
    floors = []
    for precision in precisions:
        suffix, mark = _suffix_and_mark(precision)
        floors.append(
            Competitor(f"floor{suffix}", f"floor{mark}", _own_worker("products"), "floor", {"precision": precision})
        )
    return [*ours, Competitor("sb3", "SB3", _own_worker("stable_baselines3"), "stock"), *floors]


def own_forms(command: tuple[str, ...], precisions: Sequence[str]) -> list[Competitor]:
    """
    :param command: that starts our worker
    :param precisions: of our matrix products
    :return: ours, eager and compiled, in each
    :raises ValueError: for an unknown precision, naming the nearest
    """
    found = []
    for precision in precisions:
        if precision not in PRECISIONS:
            raise unknown("precision", precision, PRECISIONS)
        suffix, mark = _suffix_and_mark(precision)
        for compiled in (False, True):
            found.append(
                Competitor(
                    ("ours_compiled" if compiled else "ours") + suffix,
                    f"us, {'compiled' if compiled else 'eager'}{mark}",
                    command,
                    "ours",
                    {"compile": compiled, "precision": precision},
                    compiles=compiled,
                )
            )
    return found


def _suffix_and_mark(precision: str) -> tuple[str, str]:
    return ("", "") if precision == "fp32" else (f"_{precision}", f" {precision}")


def _own_worker(name: str) -> tuple[str, ...]:
    return (sys.executable, "-m", "sb3_o2o.benchmarking.workers", name)


def peer_competitors(interpreters: Sequence[str | Path] = ()) -> list[Competitor]:
    """
    :param interpreters: Python interpreters of other environments; this one is looked at as well
    :return: the peers that they hold, each once
    :raises FileNotFoundError: if there is no such interpreter
    :raises ValueError: if one holds no peer
    """
    found: dict[str, str] = {}
    for interpreter in interpreters:
        holds = _peers_in(Path(interpreter))
        if not holds:
            raise ValueError(
                f"{interpreter} has none of the peers {', '.join(PEERS)}: install sbx-rl or d3rlpy there "
                "(make bench-peers does both)."
            )
        for name in holds:
            found.setdefault(name, str(interpreter))
    for name in PEERS:
        if importlib.util.find_spec(name) is not None:
            found.setdefault(name, sys.executable)
    return [competitor for name in PEERS if name in found for competitor in _peer(name, found[name])]


def _peers_in(interpreter: Path) -> list[str]:
    if not interpreter.is_file() or not os.access(interpreter, os.X_OK):
        raise FileNotFoundError(
            f"No Python interpreter at {interpreter}: --peers takes the path of one, such as .venv-sbx/bin/python."
        )
    code = f"import importlib.util as u, json; print(json.dumps([n for n in {PEERS!r} if u.find_spec(n)]))"
    try:
        # -I: neither this folder nor PYTHONPATH may lend it modules
        output = subprocess.run([interpreter, "-I", "-c", code], capture_output=True, text=True, check=True).stdout
        return list(json.loads(output))
    except (OSError, subprocess.CalledProcessError, json.JSONDecodeError) as error:
        raise ValueError(f"{interpreter} does not run Python: {error}.") from error


def _peer(name: str, interpreter: str) -> list[Competitor]:
    script = Path(peers_package.__file__).with_name(f"{name}_worker.py")
    command = (interpreter, str(script))
    if name == "sbx":
        return [
            Competitor("sbx", "SBX", command, "peer", {"fused": 0}, compiles=True, foreign=True),
            Competitor(
                "sbx_fused", f"SBX, {FUSED} fused", command, "peer", {"fused": FUSED}, compiles=True, foreign=True
            ),
        ]
    return [Competitor(name, name, command, "peer", foreign=True)]


def worker_environment(threads: int, foreign: bool) -> dict[str, str]:
    """
    The same number of threads for every library, by the names that each reads.

    :param threads: threads of a worker
    :param foreign: whether it runs in another environment, where this one's paths must not reach
    :return: environment variables
    """
    environment = dict(os.environ)
    if foreign:
        for name in ("PYTHONPATH", "PYTHONHOME"):
            environment.pop(name, None)
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NPROC"):
        environment[name] = str(threads)  # NPROC: the size of XLA's pool
    if threads == 1:
        environment["XLA_FLAGS"] = f"{environment.get('XLA_FLAGS', '')} --xla_cpu_multi_thread_eigen=false".strip()
    # JAX would take most of a GPU's memory, which is shared with the others here
    environment["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
    return environment

"""What a resume bundle says of itself: read, and compared with its files, before any of them is opened."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import stable_baselines3
import torch as th

from sb3_o2o.errors import warn
from sb3_o2o.version import __version__

MANIFEST = "manifest.json"
#: files that every bundle has
MODEL, STATE = "model.zip", "state.zip"


class DamagedBundle(ValueError):
    """A resume bundle of which parts are missing, or not what was written."""


def sha256(*parts: Any) -> str:
    """
    :param parts: bytes, or C-contiguous arrays
    :return: the checksum of all of them in turn
    """
    found = hashlib.sha256()
    for part in parts:
        found.update(part)
    return found.hexdigest()


@dataclass(frozen=True)
class Manifest:
    """
    :param algorithm: name of the model's class
    :param run: identity of the fine-tuning run
    :param phase: the model's
    :param gradient_steps: of pre-training so far
    :param environment_steps: of fine-tuning so far
    :param phase_steps: updates made in each gradient-only phase
    :param written: when, in UTC
    :param files: bytes and SHA-256 of each file
    """

    algorithm: str
    run: str
    phase: str | None
    gradient_steps: int
    environment_steps: int
    phase_steps: dict[str, int] = field(default_factory=dict)
    written: str = ""
    sb3_o2o: str = __version__
    torch: str = str(th.__version__)
    stable_baselines3: str = stable_baselines3.__version__
    files: dict[str, tuple[int, str]] = field(default_factory=dict)

    @classmethod
    def of(cls, model: Any) -> Manifest:
        """
        :param model: an algorithm at a clean point
        :return: of a bundle that has no files yet
        """
        counters = model.online_counters  # while pre-training, ``num_timesteps`` counts gradient steps
        return cls(
            algorithm=type(model).__name__,
            run=model.finetuning_run.id,
            phase=model.phase,
            gradient_steps=int(model.n_pretrain_steps),
            environment_steps=int(model.num_timesteps if counters is None else counters[0]),
            phase_steps={name: int(steps) for name, steps in model.phase_steps.items()},
            written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S"),
        )

    def add(self, folder: Path, name: str, checksum: str | None = None) -> None:
        """
        Note a file of the bundle.

        :param folder: the bundle
        :param name: of the file
        :param checksum: its SHA-256, where it is known
        """
        content = folder / name
        self.files[name] = content.stat().st_size, checksum or _checksum(content)

    def write(self, folder: Path) -> None:
        """
        :param folder: the bundle, all of whose files have been added
        """
        (folder / MANIFEST).write_text(json.dumps(asdict(self), indent=1))

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """
        :param folder: a bundle
        :return: what it says of itself; nothing else of it is opened
        :raises DamagedBundle: if that is missing or no manifest
        :raises ValueError: if another version has written it
        """
        try:
            document = json.loads((folder / MANIFEST).read_text())
            version = document["sb3_o2o"]
        except FileNotFoundError:
            raise DamagedBundle(
                f"{folder} is no resume bundle: it has no {MANIFEST}, which save_resume writes."
            ) from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DamagedBundle(f"{folder / MANIFEST} cannot be read: {type(error).__name__}: {error}.") from error
        if version != __version__:
            raise ValueError(
                f"{folder} was written by sb3_o2o {version}, this is {__version__}: a run can only go on bit for bit "
                f"in the same version. {folder / 'model.zip'} can still be loaded with load()."
            )
        try:
            document["files"] = {
                name: (int(size), str(checksum)) for name, (size, checksum) in document["files"].items()
            }
            for count in (document["gradient_steps"], document["environment_steps"], *document["phase_steps"].values()):
                if not isinstance(count, int):
                    raise TypeError(f"{count!r} is no number of steps")
            return cls(**{each.name: document[each.name] for each in fields(cls)})
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DamagedBundle(f"{folder / MANIFEST} is incomplete: {type(error).__name__}: {error}.") from error

    def check(self, folder: Path, contents: bool = True) -> None:
        """
        :param folder: the bundle
        :param contents: compare checksums as well, which reads all of it
        :raises DamagedBundle: naming every file that is missing, not what was written, or none of the bundle's
        """
        found = [fault for name in self.files if (fault := self._fault(folder, name, contents))]
        found += [f"{name} is not named in {MANIFEST}" for name in (MODEL, STATE) if name not in self.files]
        there = sorted(each.name for each in folder.iterdir() if not each.name.startswith("."))
        found += [f"{name} is none of its files" for name in there if name not in (MANIFEST, MODEL, STATE, *self.files)]
        if found:
            more = f" and {len(found) - 5} more" if len(found) > 5 else ""
            raise DamagedBundle(f"{folder} is damaged: {', '.join(found[:5])}{more}.")

    def _fault(self, folder: Path, name: str, contents: bool) -> str | None:
        size, checksum = self.files[name]
        path = folder / name
        if Path(name).name != name or not path.is_file():
            return f"{name} is missing"
        if path.is_symlink():
            return f"{name} is a link"
        if path.stat().st_size != size:
            return f"{name} has {path.stat().st_size:,} bytes instead of {size:,}"
        if contents and _checksum(path) != checksum:
            return f"{name} holds something else than was written"
        return None

    def refuse_others(self, folder: Path, algorithm: str) -> None:
        """
        :param folder: the bundle
        :param algorithm: name of the class that is to read it
        :raises ValueError: if it is of another class; another version of PyTorch or Stable-Baselines3 is a warning
        """
        if self.algorithm != algorithm:
            raise ValueError(
                f"{folder} is of {self.algorithm}, not of {algorithm}: read it with {self.algorithm}.load_resume."
            )
        present = {"torch": str(th.__version__), "stable_baselines3": stable_baselines3.__version__}
        others = [
            f"{name} {getattr(self, name)} (this is {own})"
            for name, own in present.items()
            if getattr(self, name) != own
        ]
        if others:
            warn(
                f"{folder} was written with {' and '.join(others)}: the run can go on, but it is not promised to go on "
                "bit for bit in another version.",
            )

    def __str__(self) -> str:
        """From where a run goes on, for people."""
        counts = [f"{self.gradient_steps:,} gradient steps of pre-training"] if self.gradient_steps else []
        counts += [f"{steps:,} updates of {name}" for name, steps in self.phase_steps.items()]
        if self.environment_steps or not counts:
            counts.append(f"{self.environment_steps:,} environment steps")
        return f"{', '.join(counts)} (phase: {self.phase or 'not begun'}), saved {self.written} UTC"


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

"""The rules of CONTRIBUTING.md that can be counted."""

from collections import Counter
from pathlib import Path

import sb3_o2o

PACKAGE = Path(sb3_o2o.__file__).resolve().parent
FILES = sorted(PACKAGE.rglob("*.py"))


def relative(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


#: RL Zoo's programs have RL Zoo's names.
PROGRAMS = {"zoo/train.py"}


def test_file_names_say_what_is_theirs_without_their_folder() -> None:
    counts = Counter(path.name for path in FILES if path.name != "__init__.py" and relative(path) not in PROGRAMS)
    assert len(counts) > 100
    assert [name for name, count in counts.items() if count > 1] == []

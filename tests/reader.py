"""
A reader who pastes what the documentation shows: every block with its own imports and without a warning.

Only sizes are changed, all by :func:`shorter`: a number of steps is divided by 25,000, in the text and in the recipes.
The dataset of the blocks is recorded here, under the same name.
"""

import re
import shlex
import warnings
from pathlib import Path
from typing import Any

import typer
from tqdm import TqdmExperimentalWarning

from sb3_o2o.cli import app

ROOT = Path(__file__).resolve().parent.parent
#: folders of the documentation that are made from the code
GENERATED = {"generated", "_build"}
NUMBER = r"\d{1,3}(?:_\d{3})+|\d+"
#: warnings that Python hides by default, and the one that Stable-Baselines3 hides when it is imported
HIDDEN = (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning, TqdmExperimentalWarning)


def blocks(text: str, language: str) -> list[str]:
    """Fenced blocks of one language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.M | re.S)


def commands(text: str) -> list[str]:
    """Lines of the shell blocks, without comments."""
    joined = "\n".join(blocks(text, "bash")).replace("\\\n", " ")
    lines = [line.partition("#")[0].strip() for line in joined.splitlines()]
    return [line for line in lines if line]


def shorter(text: str, pattern: str = r"(?<![\w.]){}(?![\w.])") -> str:
    """Every number from 5,000 on that a pattern finds, divided by 25,000; at least 2."""

    def divided(match: re.Match[str]) -> str:
        number = int(match[1])
        return match[0] if number < 5_000 else match[0].replace(match[1], str(max(number // 25_000, 2)))

    return re.sub(pattern.format(f"({NUMBER})"), divided, text)


def paste(code: str, names: dict[str, Any] | None = None) -> dict[str, Any]:
    """
    Runs a script in a namespace, by default one of its own, and gives its names. Warnings that its user would see are
    errors.
    """
    names = {"__name__": "__main__"} if names is None else names
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for hidden in HIDDEN:
            warnings.simplefilter("ignore", hidden)
        exec(compile(shorter(code), "documentation", "exec"), names)
    return names


def parse(command: str) -> None:
    """Reads a command line as the program does, options and types included, and runs nothing."""
    program, *arguments = shlex.split(command)
    assert program == "sb3-o2o"
    context = (current := typer.main.get_command(app)).make_context(program, list(arguments))
    while hasattr(current, "get_command"):
        rest = [*context._protected_args, *context.args]
        current = current.get_command(context, rest[0])
        assert current is not None, command
        context = current.make_context(rest[0], rest[1:], parent=context)

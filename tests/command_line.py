"""The command line as tests call it: small networks, short runs, and what was printed."""

import re
from typing import Any

from typer.testing import CliRunner, Result

from sb3_o2o.cli import app

SMALL = [
    "--set",
    "policy_kwargs.net_arch=[4]",
    "--set",
    "batch_size=4",
    "--set",
    "buffer_size=100",
    "--set",
    "n_critics=2",
]
SHORT = ["--eval-episodes", "2", "--evaluations", "2", "--checkpoints", "1"]


def sb3_o2o(*arguments: Any, columns: int = 200) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": str(columns)})


def succeeds(*arguments: Any) -> str:
    result = sb3_o2o(*arguments)
    assert result.exit_code == 0, result.output
    return re.sub(r"\s+", " ", result.output)


def fails(*arguments: Any) -> str:
    """The one line of an error."""
    result = sb3_o2o(*arguments)
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output
    return re.sub(r"\s+", " ", result.stderr)

"""``sb3-o2o report``."""

from pathlib import Path
from typing import Annotated

import typer

from sb3_o2o.cli.console import bold, console
from sb3_o2o.cli.shared_options import Trust, comma_separated

Folders = Annotated[
    list[Path],
    typer.Argument(
        help="Folders of runs, of experiments, of RL Zoo or of an EvalCallback, at any depth; or an experiment's "
        "results.csv.",
        show_default=False,
    ),
]
Out = Annotated[Path | None, typer.Option("--out", help="Folder of the report. Default: `report` in the first folder.")]
Title = Annotated[str | None, typer.Option(help="Of the page. Default: the folders' names.")]
Env = Annotated[
    str | None, typer.Option("--env", help="Gymnasium id of runs that do not say theirs, such as an EvalCallback's.")
]
After = Annotated[
    int | None, typer.Option("--after", help="Environment steps after which scores are told as well.", min=1)
]
Baseline = Annotated[
    str | None,
    typer.Option("--baseline", help="Method that the others are compared with. Default: pictures of all pairs."),
]
Tasks = Annotated[
    str | None, typer.Option("--tasks", help="Report on these alone, with commas between them. Default: all.")
]
Methods = Annotated[str | None, typer.Option("--methods", help="Likewise.")]


def report(
    folders: Folders,
    out: Out = None,
    title: Title = None,
    env: Env = None,
    after: After = None,
    baseline: Baseline = None,
    tasks: Tasks = None,
    methods: Methods = None,
    trust: Trust = False,
) -> None:
    """Curves, intervals over seeds and tables of what runs came to: one HTML page, Markdown, pictures as SVG.

    `sb3-o2o report runs/hopper logs/sac`

    Intervals over several tasks (IQM, performance profiles, probability of improvement) need rliable:
    `pip install 'sb3_o2o[report]'`.
    """
    from sb3_o2o.reporting import write_report

    first = folders[0]
    out = out or (first if first.is_dir() else first.parent) / "report"
    with console.status("Reading and drawing …"):
        only = comma_separated("--tasks", tasks), comma_separated("--methods", methods)
        written = write_report(folders, out, title, env, after, baseline, *only)
    for remark in written.remarks:
        console.print(f"Mind: {remark}", markup=False, highlight=False, soft_wrap=True)
    console.print(f"Report:   {bold(written.html)}", soft_wrap=True, highlight=False)
    console.print(f"Markdown: {bold(written.markdown)}", soft_wrap=True, highlight=False)
    console.print(f"Pictures: {len(written.pictures)} SVG files beside them", soft_wrap=True, highlight=False)

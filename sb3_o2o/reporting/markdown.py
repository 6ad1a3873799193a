"""A report as Markdown, with links to its pictures."""

from collections.abc import Iterator, Sequence

from sb3_o2o.reporting.page import METHOD, Page
from sb3_o2o.reporting.report_pictures import Picture
from sb3_o2o.reporting.report_tables import Table


def to_markdown(page: Page) -> str:
    """
    :param page: what to show
    :return: the text; pictures are ``NAME.svg`` beside it
    """
    return "\n".join(_lines(page)) + "\n"


def _lines(page: Page) -> Iterator[str]:
    yield f"# {page.title}"
    yield f"\n{page.subtitle}."
    if page.remarks:
        yield "\n**Mind:**\n"
        yield from (f"- {remark}" for remark in page.remarks)
    yield "\n## Learning curves"
    yield from _pictures(page.curves)
    if page.over_tasks:
        yield "\n## Over all tasks"
        yield from _pictures(page.over_tasks)
    for table in page.tables:
        yield from _table(table)
    yield f"\n{METHOD}"


def _pictures(pictures: Sequence[Picture]) -> Iterator[str]:
    for picture in pictures:
        yield f"\n![{picture.title}]({picture.name}.svg)"
        yield f"\n*{picture.title}.* {picture.caption}"


def _table(table: Table) -> Iterator[str]:
    yield f"\n## {table.title}\n"
    yield f"| {' | '.join(table.columns)} |"
    yield f"|{'|'.join('---' if index < 2 else '---:' for index in range(len(table.columns)))}|"
    for row in table.rows:
        yield f"| {' | '.join(cell.text.replace('|', chr(92) + '|') for cell in row)} |"
    if table.notes:
        yield f"\n{table.notes}"

"""A report as one HTML page that needs no network: light and dark, readable on a phone, with tables that sort."""

from collections.abc import Sequence
from html import escape

from sb3_o2o.reporting.page import METHOD, Page
from sb3_o2o.reporting.report_pictures import Picture
from sb3_o2o.reporting.report_tables import Cell, Table

_STYLE = """
:root { color-scheme: light dark; --page: #fff; --ink: #20242c; --soft: #5c6470; --line: #d9dde3; --card: #f6f7f9;
  --mark: #fff6df; }
@media (prefers-color-scheme: dark) {
  :root { --page: #14171c; --ink: #e4e7ec; --soft: #9aa3b0; --line: #333a45; --card: #1c2027; --mark: #3a3117; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 86rem; background: var(--page); color: var(--ink);
  font: 16px/1.5 system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: .5rem 0; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 2rem 0 .75rem; }
p, li { max-width: 48rem; overflow-wrap: anywhere; }
.soft { color: var(--soft); font-size: .9rem; }
.mind { background: var(--mark); border-radius: .4rem; padding: .5rem 1rem; }
.mind ul { margin: 0; padding-left: 1.1rem; }
.pictures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 21rem), 1fr)); gap: 1rem; }
figure { margin: 0; padding: .75rem; background: var(--card); border: 1px solid var(--line); border-radius: .4rem; }
figure svg { display: block; width: 100%; height: auto; max-width: 36rem; margin: 0 auto; color: var(--ink); }
figcaption { font-size: .85rem; color: var(--soft); margin-top: .5rem; }
figcaption b { color: var(--ink); }
.scroll { overflow-x: auto; border: 1px solid var(--line); border-radius: .4rem; }
table { border-collapse: collapse; width: 100%; font-size: .88rem; font-variant-numeric: tabular-nums; }
th, td { padding: .4rem .6rem; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--line); }
th:nth-child(-n+2), td:nth-child(-n+2) { text-align: left; }
td:first-child, th:first-child { position: sticky; left: 0; background: var(--page); }
tbody tr:last-child td { border-bottom: 0; }
thead th { background: var(--card); }
thead th:first-child { background: var(--card); }
th button { all: unset; cursor: pointer; font-weight: 600; }
th button:focus-visible { outline: 2px solid currentColor; outline-offset: 2px; }
th[aria-sort=ascending] button::after { content: " \\25B2"; }
th[aria-sort=descending] button::after { content: " \\25BC"; }
"""

_SCRIPT = """
document.querySelectorAll("th button").forEach((button) => button.addEventListener("click", () => {
  const head = button.parentElement, body = head.closest("table").tBodies[0];
  const column = [...head.parentElement.children].indexOf(head);
  const down = head.getAttribute("aria-sort") === "ascending";
  const key = (row) => row.children[column].dataset.value;
  const rows = [...body.rows].sort((one, other) => {
    const a = key(one), b = key(other), x = Number(a), y = Number(b);
    const order = isNaN(x) || isNaN(y) ? a.localeCompare(b) : (x < y ? -1 : x > y ? 1 : 0);
    return down ? -order : order;
  });
  head.parentElement.querySelectorAll("th").forEach((each) => each.removeAttribute("aria-sort"));
  head.setAttribute("aria-sort", down ? "descending" : "ascending");
  body.append(...rows);
}));
"""


def to_html(page: Page) -> str:
    """
    :param page: what to show
    :return: the document
    """
    parts = [
        f"<h1>{escape(page.title)}</h1>",
        f'<p class="soft">{escape(page.subtitle)}.</p>',
        _remarks(page.remarks),
        _pictures("Learning curves", page.curves),
        _pictures("Over all tasks", page.over_tasks),
        *map(_table, page.tables),
        f'<h2>How it was measured</h2>\n<p class="soft">{escape(METHOD)}</p>',
        _runs(page),
    ]
    body = "\n".join(part for part in parts if part)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(page.title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n{body}\n"
        f"<script>{_SCRIPT}</script>\n</body>\n</html>\n"
    )


def _remarks(remarks: Sequence[str]) -> str:
    if not remarks:
        return ""
    items = "".join(f"<li>{escape(remark)}</li>" for remark in remarks)
    return f'<div class="mind" role="note"><ul>{items}</ul></div>'


def _pictures(title: str, pictures: Sequence[Picture]) -> str:
    if not pictures:
        return ""
    figures = "\n".join(
        f"<figure>{picture.inline}<figcaption><b>{escape(picture.title)}.</b> {escape(picture.caption)}</figcaption>"
        "</figure>"
        for picture in pictures
    )
    return f'<h2>{escape(title)}</h2>\n<div class="pictures">{figures}</div>'


def _table(table: Table) -> str:
    heads = "".join(f'<th scope="col"><button>{escape(name)}</button></th>' for name in table.columns)
    rows = "\n".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in table.rows)
    notes = f'\n<p class="soft">{escape(table.notes)}</p>' if table.notes else ""
    return (
        f'<h2>{escape(table.title)}</h2>\n<div class="scroll" tabindex="0"><table><thead><tr>{heads}</tr></thead>'
        f"<tbody>\n{rows}\n</tbody></table></div>{notes}"
    )


def _cell(cell: Cell) -> str:
    value = "Infinity" if cell.value == float("inf") else cell.value
    return f'<td data-value="{escape(str(value))}">{escape(cell.text)}</td>'


def _runs(page: Page) -> str:
    rows = "".join(
        f"<li>{escape(each.task)}, {escape(each.label)}, seed {'unknown' if each.seed is None else each.seed}: "
        f"{escape(each.path.name)}{'' if each.finished else ' (not finished)'}</li>"
        for each in page.records
    )
    return f"<details><summary>All {len(page.records)} runs</summary><ul>{rows}</ul></details>"

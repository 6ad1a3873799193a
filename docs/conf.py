"""Sphinx's configuration."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import generate
from docutils import nodes
from docutils.utils.math import latex2mathml

from sb3_o2o import __version__

project = "sb3_o2o"
author = "The sb3_o2o developers"
project_copyright = author
version = release = __version__
html_title = "sb3_o2o"

extensions = ["myst_nb", "sphinx.ext.autodoc"]  # myst_nb brings myst_parser
exclude_patterns = ["_build", "generated/kinds.md"]  # the latter is part of a page
myst_enable_extensions = ["dollarmath", "amsmath", "deflist", "colon_fence"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # notebooks are shown as they were saved; tests execute them
html_math_renderer = "mathml"
html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["own.css"]

autodoc_typehints = "description"
autodoc_typehints_description_target = "documented_params"
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "show-inheritance": True}
toc_object_entries_show_parents = "hide"
highlight_language = "text"  # literal blocks of docstrings are formulas
# Stable-Baselines3's docstrings, which ours quote, refer to pages of its own site.
suppress_warnings = ["myst.header", "ref.ref"]


def draw_formula(translator: Any, node: nodes.Element) -> None:
    """
    As MathML, which browsers draw by themselves: a page needs nothing from elsewhere.

    :param translator: what writes the page
    :param node: inline or on a line of its own
    """
    is_block = isinstance(node, nodes.math_block)
    formula = latex2mathml.tex2mathml(node.astext(), as_block=is_block)
    translator.body.append(f'<div class="math">{formula}</div>' if is_block else formula)
    raise nodes.SkipNode


def leave_out(app: Any, what: str, name: str, member: Any, skip: bool, options: Any) -> bool | None:
    """
    What only refers to the class that it overrides something of has no entry of its own.

    :return: True to leave it out, None where Sphinx decides
    """
    text = (getattr(member, "__doc__", None) or "").strip()
    return True if re.fullmatch(r"See :(meth|class):`[^`]*`\.", text) else None


def public_bases(app: Any, name: str, owner: type, options: Any, bases: list[type]) -> None:
    """In place of a private base, the public ones that it has itself."""
    while any(base.__name__.startswith("_") for base in bases):
        bases[:] = [each for base in bases for each in (base.__bases__ if base.__name__.startswith("_") else [base])]


def setup(app: Any) -> None:
    """
    Write the pages that are made from the code, before any page is read, and choose how formulas are drawn.

    :param app: Sphinx
    """
    app.add_html_math_renderer("mathml", (draw_formula, None), (draw_formula, None))
    app.connect("autodoc-skip-member", leave_out)
    app.connect("autodoc-process-bases", public_bases)
    app.connect("builder-inited", lambda _: generate.write_all(Path(__file__).parent / "generated"))

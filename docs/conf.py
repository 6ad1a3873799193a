"""Sphinx's configuration."""

from __future__ import annotations

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
exclude_patterns = ["_build", "generated/README.md"]
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


def setup(app: Any) -> None:
    """
    Write the pages that are made from the code, before any page is read, and choose how formulas are drawn.

    :param app: Sphinx
    """
    app.add_html_math_renderer("mathml", (draw_formula, None), (draw_formula, None))
    app.connect("builder-inited", lambda _: generate.write_all(Path(__file__).parent / "generated"))

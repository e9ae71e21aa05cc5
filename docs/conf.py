"""How the documentation is built: `make docs`, into build/docs, readable without a network.

The sources are the whole checkout (`include_patterns`), so that a link between pages is the same on
GitHub and here.
"""

import dataclasses
import re
from importlib.metadata import version as version_of
from typing import Any

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx

project = "diffsurrogate"
author = "the authors of diffsurrogate"
release = version = version_of("diffsurrogate")

root_doc = "docs/index"
include_patterns = [
    "docs/**.md",
    "examples/results/**.md",
    "examples/benchmarks/README.md",
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
]
exclude_patterns = [".*", "build", "dist", "runs", "**/__pycache__", "tests", "*.egg-info"]
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 4
suppress_warnings = ["myst.header"]  # tables that scripts write begin at ###

default_role = "py:obj"  # `name` in a docstring: a link where there is one, code elsewhere
autoclass_content = "both"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
python_maximum_signature_line_length = 80
napoleon_google_docstring = True
napoleon_numpy_docstring = False

html_theme = "furo"
html_title = f"diffsurrogate {release}"
html_extra_path = ["_root"]
html_math_renderer = "mathml"
html_copy_source = False

DOLLARS = re.compile(r"\$([^$]+)\$")
STARS = re.compile(r"(?<=[(\[ ])\*(?=\w+[,)])")


def with_math(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Let docstrings write formulas as Markdown does, and axes such as `(*batch, agent)`."""
    text = DOLLARS.sub(lambda found: rf"\ :math:`{found[1].strip()}`\ ", "\n".join(lines))
    lines[:] = STARS.sub(r"\\*", text).split("\n")


def without_fields(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, signature: str, returns: str
) -> tuple[str, str | None] | None:
    """Leave the fields of a configuration out of its signature: each is documented below it."""
    if what == "class" and dataclasses.is_dataclass(obj):
        return "", None
    return None


def mathml(node: nodes.Element, *, as_block: bool) -> str:
    """Return a formula as MathML; docutils knows one of TeX's two names for three dots."""
    return tex2mathml(node.astext().replace(r"\dots", r"\ldots"), as_block=as_block)


def inline_math(translator: Any, node: nodes.math) -> None:
    """Write a formula as MathML, which browsers draw themselves."""
    translator.body.append(mathml(node, as_block=False))
    raise nodes.SkipNode


def block_math(translator: Any, node: nodes.math_block) -> None:
    """Write a formula on lines of its own as MathML."""
    translator.body.append(mathml(node, as_block=True))
    raise nodes.SkipNode


def setup(app: Sphinx) -> None:
    """Register the above."""
    app.connect("autodoc-process-docstring", with_math)
    app.connect("autodoc-process-signature", without_fields)
    app.add_html_math_renderer("mathml", (inline_math, None), (block_math, None))

"""Pages of HTML that open without a network: the style, and pictures inside."""

import base64
import html
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

from matplotlib import pyplot as plt
from matplotlib.figure import Figure

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<meta name="viewport" content="width=device-width">
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 64rem; margin: 2rem auto }}
pre {{ background: #f4f4f4; padding: 1rem; font-size: 14px; white-space: pre-wrap }}
figure {{ display: inline-block; margin: 0 1rem 1rem 0; vertical-align: top; max-width: 28rem }}
figure.wide {{ max-width: 100% }}
figcaption {{ font-size: 14px; color: #444 }}
img {{ max-width: 100% }}
div.table {{ overflow-x: auto }}
table {{ border-collapse: collapse; font-size: 14px }}
th, td {{ border-bottom: 1px solid #ccc; padding: .2rem .6rem; text-align: left }}
</style></head><body>
<h1>{title}</h1>
{body}
</body></html>
"""


def page(title: str, parts: Iterable[str]) -> str:
    """Return a page: a title in plain text, and parts in HTML."""
    return _PAGE.format(title=html.escape(title), body="\n".join(parts))


def text(content: str, tag: str = "p") -> str:
    """Return plain text in an element, such as a paragraph."""
    return f"<{tag}>{html.escape(content)}</{tag}>"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table of plain texts."""
    lines = "".join(f"<tr>{''.join(text(cell, 'td') for cell in row)}</tr>\n" for row in rows)
    names = "".join(text(name, "th") for name in head)
    return f'<div class="table"><table><tr>{names}</tr>\n{lines}</table></div>'


def drawing(figure: Figure, caption: str, *, wide: bool = False) -> str:
    """Return a figure with its caption, and close it."""
    stream = io.BytesIO()
    figure.savefig(stream, dpi=110, format="png")
    plt.close(figure)
    return _picture(stream.getvalue(), "png", caption, "wide" if wide else "")


def film(file: Path, caption: str) -> str:
    """Return a GIF with its caption."""
    return _picture(file.read_bytes(), "gif", caption, "")


def _picture(content: bytes, kind: str, caption: str, style: str) -> str:
    source = f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
    told = html.escape(caption)
    return (
        f'<figure class="{style}"><img alt="{told}" src="{source}">'
        f"<figcaption>{told}</figcaption></figure>"
    )

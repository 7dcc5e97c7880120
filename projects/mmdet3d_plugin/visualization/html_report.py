"""A report in one self-contained HTML file: pictures are embedded, nothing is fetched, no script runs."""
import base64
from html import escape
from pathlib import Path
from typing import List, NamedTuple, Sequence

from ..utils.atomic_file import atomic_path

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1a1a1a; background: #fff; max-width: 1500px; margin: 2rem auto;
       padding: 0 1.5rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.35rem; margin-top: 3rem; border-bottom: 1px solid #bbb; }
h3 { font-size: 1.1rem; margin-top: 2rem; } p, figcaption { max-width: 75em; }
figure { margin: 1rem 0 2rem; } img { max-width: 100%; height: auto; border: 1px solid #ddd; }
figcaption { color: #444; font-size: 0.95rem; }
div.wide { overflow-x: auto; margin: 1.5rem 0; }
table { border-collapse: collapse; font-size: 0.95rem; }
caption { text-align: left; color: #444; padding-bottom: 0.3rem; max-width: 75em; }
th, td { text-align: left; vertical-align: top; padding: 0.25rem 1.2rem 0.25rem 0; border-bottom: 1px solid #ddd; }
table.facts td { overflow-wrap: anywhere; } .number { text-align: right; }
"""
# The browser itself refuses whatever is not in the file.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


class Picture(NamedTuple):
    """A picture of a report.

    Attributes:
        path: PNG file to embed.
        alt: what it shows, for those who do not see it.
        caption: text below it.
    """

    path: Path
    alt: str
    caption: str


class Table(NamedTuple):
    """A table of a report: a caption, names of the columns, rows of text or numbers."""

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence]


class Section(NamedTuple):
    """A part of a report: its heading, its level (2 or 3), and what follows, in this order.

    Attributes:
        heading, level: of the section.
        parts: paragraphs (str), tables and pictures.
    """

    heading: str
    level: int
    parts: List


def write_report(path, title, facts, sections):
    """Write a report.

    Args:
        path (str | Path): HTML file.
        title (str): of the page.
        facts (Sequence[tuple[str, str]]): names and values of what the report was made of.
        sections (Sequence[Section]): what follows.
    """
    rows = ''.join(f'<tr><th scope="row">{escape(name)}</th><td>{escape(value)}</td></tr>\n' for name, value in facts)
    body = ''.join(f'<h{section.level}>{escape(section.heading)}</h{section.level}>\n'
                   f'{"".join(map(_part, section.parts))}' for section in sections)
    page = f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<link rel="icon" href="data:,">
<style>{_STYLE}</style>
</head>
<body>
<h1>{escape(title)}</h1>
<table class="facts">
{rows}</table>
{body}</body>
</html>
"""
    with atomic_path(path) as temporary:
        temporary.write_text(page, encoding='utf-8')


def _part(part):
    if isinstance(part, Picture):
        content = base64.b64encode(Path(part.path).read_bytes()).decode()
        return (f'<figure>\n<img src="data:image/png;base64,{content}" alt="{escape(part.alt)}">\n'
                f'<figcaption>{escape(part.caption)}</figcaption>\n</figure>\n')
    if isinstance(part, Table):
        head = ''.join(f'<th scope="col">{escape(column)}</th>' for column in part.columns)
        rows = ''.join(f'<tr>{"".join(map(_cell, row))}</tr>\n' for row in part.rows)
        return (f'<div class="wide"><table>\n<caption>{escape(part.caption)}</caption>\n'
                f'<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}</tbody>\n</table></div>\n')
    return f'<p>{escape(part)}</p>\n'


def _cell(value):
    if isinstance(value, str):
        return f'<td>{escape(value)}</td>'
    return f'<td class="number">{value:.3g}</td>' if isinstance(value, float) else f'<td class="number">{value}</td>'

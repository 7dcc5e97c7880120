"""A report in one self-contained HTML file: pictures are embedded, nothing is fetched, no script runs.

The page is a template of jinja2, which torch brings along; it escapes all names and texts.
"""
import base64
import io
from functools import partial
from pathlib import Path
from typing import List, NamedTuple, Sequence

from jinja2 import Environment, StrictUndefined
from PIL import Image

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
nav ul { list-style: none; margin: 0; padding-left: 0; } nav li.level3 { padding-left: 1.5rem; }
"""
# The browser itself refuses whatever is not in the file.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"

# Qualities of WebP, the best one for which the page is small enough to be sent by mail. At 82 text and thin lines stay
# sharp, at a tenth of the size of PNG; at 40 they are still legible.
_QUALITIES = (82, 68, 54, 40)
_LARGEST_PAGE = 3_000_000  # bytes
_WIDTH = 1500  # pixels, as wide as the page gets; the PNG files keep all of theirs
_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{{ policy | safe }}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<link rel="icon" href="data:,">
<style>{{ style | safe }}</style>
</head>
<body>
<h1>{{ title }}</h1>
<table class="facts">
{% for name, value in facts %}<tr><th scope="row">{{ name }}</th><td>{{ value }}</td></tr>
{% endfor %}</table>
<nav aria-label="Contents"><h2>Contents</h2>
<ul>
{% for section in sections %}<li class="level{{ section.level }}">\
<a href="#part-{{ loop.index }}">{{ section.heading }}</a></li>
{% endfor %}</ul></nav>
{% for section in sections %}<h{{ section.level }} id="part-{{ loop.index }}">\
{{ section.heading }}</h{{ section.level }}>
{% for part in section.parts %}{% if part is string %}<p>{{ part }}</p>
{% elif part.rows is defined %}<div class="wide"><table>
<caption>{{ part.caption }}</caption>
<thead><tr>{% for column in part.columns %}<th scope="col">{{ column }}</th>{% endfor %}</tr></thead>
<tbody>
{% for row in part.rows %}<tr>{% for value in row %}{% if value is string %}<td>{{ value }}</td>\
{% else %}<td class="number">{{ '%.3g' % value if value is float else value }}</td>{% endif %}{% endfor %}</tr>
{% endfor %}</tbody>
</table></div>
{% else %}<figure>
<img src="data:image/webp;base64,{{ embed(part.path) }}" alt="{{ part.alt }}">
<figcaption>{{ part.caption }}</figcaption>
</figure>
{% endif %}{% endfor %}{% endfor %}</body>
</html>
"""


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
    """Write a report with a list of its contents: 3 MB at most, where its pictures can be embedded in so few and are
    still legible.

    Args:
        path (str | Path): HTML file.
        title (str): of the page.
        facts (Sequence[tuple[str, str]]): names and values of what the report was made of.
        sections (Sequence[Section]): what follows.

    Raises:
        FileNotFoundError: a picture is missing; nothing is written then.
    """
    template = Environment(autoescape=True, undefined=StrictUndefined).from_string(_PAGE)
    for quality in _QUALITIES:
        page = template.render(title=title, facts=facts, sections=sections, style=_STYLE, policy=_POLICY,
                               embed=partial(_embed, quality=quality)).encode()
        if len(page) <= _LARGEST_PAGE:
            break
    with atomic_path(path) as temporary:
        temporary.write_bytes(page)


def _embed(path, quality):
    """A picture as WebP in base64, no wider than the page."""
    content = io.BytesIO()
    with Image.open(path) as image:
        image = image.convert('RGB')
        if image.width > _WIDTH:
            image = image.resize((_WIDTH, round(image.height * _WIDTH / image.width)), Image.Resampling.LANCZOS)
        image.save(content, 'WEBP', quality=quality)
    return base64.b64encode(content.getvalue()).decode()

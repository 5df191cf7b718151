"""A page that needs nothing else: pictures as data, tables and text in one HTML file."""

import base64
import io
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from string import Template
from typing import TypeAlias

from matplotlib.figure import Figure

from mnist_jax.errors import Failure
from mnist_jax.reporting.style import CSS_PIXELS_PER_INCH

# Twice the pixels of CSS: sharp on a screen of today.
_PNG = {"dpi": 2 * CSS_PIXELS_PER_INCH, "format": "png", "pil_kwargs": {"optimize": True}}


@dataclass(frozen=True, eq=False)
class Picture:
    """A figure with its words.

    Attributes:
      name: of its file, without `.png`.
      figure: the drawing.
      alt: what it shows, for who can't see it.
      caption: what is below it.
    """

    name: str
    figure: Figure
    alt: str
    caption: str


@dataclass(frozen=True)
class Table:
    """Text in rows and columns.

    Attributes:
      head: the columns' names.
      rows: the cells.
      numbers: the columns that hold numbers.
    """

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    numbers: Collection[int] = ()


@dataclass(frozen=True)
class Code:
    """Lines to be typed or read as they are."""

    text: str


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str


Block: TypeAlias = Picture | Table | Code | Text


@dataclass(frozen=True)
class Section:
    """Blocks under a title."""

    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Page:
    """Sections under a title."""

    title: str
    sections: Sequence[Section]


def write(page: Page, folder: Path) -> Path:
    """Writes `report.html` and every picture as a PNG file beside it, replacing those there are.

    Returns:
      The HTML file.

    Raises:
      Failure: the folder can't be written.
    """
    pngs = {
        block.name: _png(block.figure)
        for section in page.sections
        for block in section.blocks
        if isinstance(block, Picture)
    }
    target = folder / "report.html"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, png in pngs.items():
            (folder / f"{name}.png").write_bytes(png)
        target.write_text(html(page, pngs), encoding="utf-8")
    except OSError as error:
        raise Failure(
            f"{error.filename or folder} can't be written ({error.strerror});"
            " make room or give another folder."
        ) from error
    return target


def html(page: Page, pngs: dict[str, bytes]) -> str:
    """The page with its pictures, whose PNG files are given by name, as data."""
    numbered = list(enumerate(page.sections, start=1))
    links = [f'<a href="#s{i}">{escape(section.title)}</a>' for i, section in numbered]
    sections = [
        f'<section id="s{i}">\n<h2>{escape(section.title)}</h2>\n'
        f"{_blocks(section, pngs)}\n</section>"
        for i, section in numbered
    ]
    return _PAGE.substitute(
        title=escape(page.title), links="\n".join(links), sections="\n".join(sections)
    )


def _blocks(section: Section, pngs: dict[str, bytes]) -> str:
    """The section's blocks; pictures that follow each other stand side by side if there is room."""
    parts, row = [], []
    for block in section.blocks:
        if isinstance(block, Picture):
            row.append(_figure(block, pngs[block.name]))
            continue
        parts += [_row(row), _block(block)]
        row = []
    return "\n".join(part for part in (*parts, _row(row)) if part)


def _row(figures: Sequence[str]) -> str:
    return '<div class="pictures">\n' + "\n".join(figures) + "\n</div>" if figures else ""


def _block(block: Table | Code | Text) -> str:
    match block:
        case Table(head, rows, numbers):
            heads = _cells('th scope="col"', head, numbers)
            body = "\n".join(f"<tr>{_cells('td', row, numbers)}</tr>" for row in rows)
            # Focusable, so that keys can scroll it too.
            return (
                f'<div class="table" tabindex="0">\n<table>\n<thead><tr>{heads}</tr></thead>\n'
                f"<tbody>\n{body}\n</tbody>\n</table>\n</div>"
            )
        case Code(text):
            return f'<pre tabindex="0"><code>{escape(text)}</code></pre>'
        case Text(text):
            return f"<p>{escape(text)}</p>"


def _cells(start: str, row: Sequence[str], numbers: Collection[int]) -> str:
    classes = ("", ' class="number"')
    return "".join(
        f"<{start}{classes[i in numbers]}>{escape(cell)}</{start[:2]}>"
        for i, cell in enumerate(row)
    )


def _figure(picture: Picture, png: bytes) -> str:
    width, height = (round(CSS_PIXELS_PER_INCH * side) for side in picture.figure.get_size_inches())
    return (
        f'<figure>\n<img src="data:image/png;base64,{base64.b64encode(png).decode()}"'
        f' width="{width}" height="{height}" alt="{escape(picture.alt)}">\n'
        f"<figcaption>{escape(picture.caption)}</figcaption>\n</figure>"
    )


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, **_PNG)  # type: ignore[arg-type]
    return buffer.getvalue()


# The policy lets a browser load nothing from anywhere.
_PAGE = Template("""\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>$title</title>
<style>
:root { color-scheme: light dark;
  --ink: #1b1b1b; --paper: #ffffff; --line: #d0d0d0; --link: #0b5394; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e6e6; --paper: #1b1b1d; --line: #4a4a4a; --link: #8ab8ff; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 66rem; color: var(--ink); background: var(--paper);
  font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: break-word; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: .5rem 0; }
h2 { font-size: 1.25rem; margin: 2.5rem 0 .5rem; padding-top: 1rem;
  border-top: 1px solid var(--line); }
nav { display: flex; flex-wrap: wrap; gap: .25rem 1.25rem; }
a { color: var(--link); }
p { max-width: 45rem; }
.pictures { display: flex; flex-wrap: wrap; align-items: flex-start; gap: 1.5rem; }
figure { margin: 0; max-width: 480px; }
img { display: block; max-width: 100%; height: auto; background: white; border-radius: 4px; }
figcaption { font-size: .9rem; margin-top: .4rem; }
.table, pre { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; font-size: .9rem; }
th, td { text-align: left; vertical-align: top; max-width: 20rem;
  padding: .25rem .75rem .25rem 0; border-bottom: 1px solid var(--line); }
.number { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
pre { font-size: .85rem; padding: .75rem; border: 1px solid var(--line); border-radius: 4px; }
</style>
</head>
<body>
<h1>$title</h1>
<nav aria-label="Sections">
$links
</nav>
<main>
$sections
</main>
</body>
</html>
""")

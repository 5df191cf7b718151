"""A self-contained HTML page with embedded figures, tables and text."""

import base64
import io
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from string import Template
from typing import TypeAlias

from matplotlib.figure import Figure

from mnist_jax.files import unwritable, write_output
from mnist_jax.reporting.style import CSS_PIXELS_PER_INCH

# The most table columns that fit on a phone; with more, every row becomes a card.
_PHONE = 5
# The least width of a window with columns, and the most columns of figures.
_SCREEN, _COLUMNS = "60rem", 3
_HERE = Path(__file__).parent
# Colours and fonts shared by all pages.
BASE_STYLE = (_HERE / "base.css").read_text("utf-8").strip()
# Its content security policy forbids loading anything.
_PAGE = Template((_HERE / "page.html").read_text("utf-8"))
# Two device pixels per CSS pixel, for high-density screens.
_PNG = {"dpi": 2 * CSS_PIXELS_PER_INCH, "format": "png", "pil_kwargs": {"optimize": True}}


@dataclass(frozen=True, eq=False)
class Picture:
    """A figure with its texts.

    Attributes:
      name: name of its file, without `.png`.
      figure: the drawing.
      alt: the alternative text.
      caption: the text below it.
      wide: the same figure for wide screens, using their full width.
    """

    name: str
    figure: Figure
    alt: str
    caption: str
    wide: Figure | None = None

    @property
    def figures(self) -> dict[str, Figure]:
        """Its drawings, by their file names without `.png`."""
        wide = {} if self.wide is None else {f"{self.name}-wide": self.wide}
        return {self.name: self.figure} | wide


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
    """Preformatted lines, such as commands."""

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
      ValueError: two pictures have the same name.
    """
    figures = [
        named
        for section in page.sections
        for block in section.blocks
        if isinstance(block, Picture)
        for named in block.figures.items()
    ]
    pngs = {name: _png(figure) for name, figure in figures}
    if len(pngs) < len(figures):
        raise ValueError("two pictures of the page have the same name")
    target = folder / "report.html"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(folder, error, "folder") from error
    for name, png in pngs.items():
        write_output(folder / f"{name}.png", png, "folder")
    write_output(target, html(page, pngs).encode(), "folder")
    return target


def html(page: Page, pngs: dict[str, bytes]) -> str:
    """Renders the page; `pngs` are the PNG files to embed, by name."""
    numbered = list(enumerate(page.sections, start=1))
    links = [f'<a href="#s{i}">{escape(section.title)}</a>' for i, section in numbered]
    sections = [
        f'<section id="s{i}"{_half(section)}>\n<h2>{escape(section.title)}</h2>\n'
        f"{_blocks(section, pngs)}\n</section>"
        for i, section in numbered
    ]
    return _PAGE.substitute(
        title=escape(page.title),
        links="\n".join(links),
        sections="\n".join(sections),
        base=BASE_STYLE,
        screen=_SCREEN,
    )


def _half(section: Section) -> str:
    """Marks sections that fit half a screen: no figures, and no table of many columns."""
    whole = any(
        isinstance(block, Picture) or (isinstance(block, Table) and len(block.head) > _PHONE)
        for block in section.blocks
    )
    return "" if whole else ' class="half"'


def _blocks(section: Section, pngs: dict[str, bytes]) -> str:
    """The section's blocks; consecutive figures are placed side by side if there is room."""
    parts: list[str] = []
    row: list[Picture] = []
    for block in section.blocks:
        if isinstance(block, Picture):
            row.append(block)
            continue
        parts += [_row(row, pngs), _block(block, section.title)]
        row = []
    return "\n".join(part for part in (*parts, _row(row, pngs)) if part)


def _row(pictures: Sequence[Picture], pngs: dict[str, bytes]) -> str:
    if not pictures:
        return ""
    columns = min(_COLUMNS, sum(picture.wide is None for picture in pictures))
    figures = "\n".join(_figure(picture, pngs) for picture in pictures)
    return f'<div class="pictures" style="--columns: {max(1, columns)}">\n{figures}\n</div>'


def _block(block: Table | Code | Text, title: str) -> str:
    match block:
        case Table():
            return _table(block, title)
        case Code(text):
            # Lines and words as elements: continuation lines are indented, and no flag is split.
            lines = "".join(f"<div>{_words(line)}\n</div>" for line in text.splitlines())
            return f'<div class="code">{lines}</div>'
        case Text(text):
            return f"<p>{escape(text)}</p>"


def _words(line: str) -> str:
    return " ".join(f"<span>{escape(word)}</span>" for word in line.split(" "))


def _table(table: Table, title: str) -> str:
    classes = [' class="number"' if i in table.numbers else "" for i in range(len(table.head))]
    heads = "".join(
        f'<th scope="col"{kind}>{escape(name)}</th>'
        for name, kind in zip(table.head, classes, strict=True)
    )
    rows = []
    for first, *others in table.rows:
        cells = "".join(
            f'<td{kind} data-name="{escape(name)}">{_cell(cell)}</td>'
            for cell, name, kind in zip(others, table.head[1:], classes[1:], strict=True)
        )
        rows.append(f'<tr><th scope="row"{classes[0]}>{escape(first)}</th>{cells}</tr>')
    body = "\n".join(rows)
    kind = " cards" if len(table.head) > _PHONE else ""
    # Focusable, so that it can be scrolled with the keyboard.
    return (
        f'<div class="table{kind}" tabindex="0" role="region" aria-label="{escape(title)}">\n'
        f"<table>\n<thead><tr>{heads}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table>\n</div>"
    )


def _cell(text: str) -> str:
    # A shape may wrap to the next line.
    return escape(text).replace("×", "×<wbr>")


def _figure(picture: Picture, pngs: dict[str, bytes]) -> str:
    sources = {name: _source(figure, pngs[name]) for name, figure in picture.figures.items()}
    url, size = sources[picture.name]
    image = f'<img src="{url}" {size} alt="{escape(picture.alt)}">'
    kind = ""
    if picture.wide is not None:
        url, size = sources[f"{picture.name}-wide"]
        kind = ' class="wide"'
        image = (
            f'<picture>\n<source media="(min-width: {_SCREEN})" srcset="{url}" {size}>\n{image}\n'
            "</picture>"
        )
    return f"<figure{kind}>\n{image}\n<figcaption>{escape(picture.caption)}</figcaption>\n</figure>"


def _source(figure: Figure, png: bytes) -> tuple[str, str]:
    """A PNG file as a data URL, and its size in CSS pixels."""
    width, height = (round(CSS_PIXELS_PER_INCH * side) for side in figure.get_size_inches())
    data = base64.b64encode(png).decode()
    return f"data:image/png;base64,{data}", f'width="{width}" height="{height}"'


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, **_PNG)  # type: ignore[arg-type]
    return buffer.getvalue()

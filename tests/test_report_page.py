"""The HTML page of a report: complete, self-contained, escaped, and shown by a browser."""

import base64
import dataclasses
import io
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image
from report_runs import PHONE, SCREEN, check_legible

from mnist_jax.data import Dataset
from mnist_jax.errors import Failure
from mnist_jax.reporting import contents, page
from mnist_jax.reporting.history import History
from mnist_jax.reporting.page import Block, Code, Page, Picture, Section, Table, Text

VOID = {"meta", "link", "img", "source", "wbr"}


def test_unwritable_folder_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(Failure, match="can't be written"):
        page.write(Page("", []), tmp_path / "file" / "report")


def test_two_pictures_of_one_name_are_an_error(tmp_path: Path) -> None:
    one = Picture("same", Figure(), "", "")
    with pytest.raises(ValueError, match="two pictures of the page have the same name"):
        page.write(Page("", [Section("", [one, one])]), tmp_path)


class Checker(HTMLParser):
    """Collects a page's elements, and checks that they are closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, Any]]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def parse(path: Path) -> Checker:
    checker = Checker()
    checker.feed(path.read_text("utf-8"))
    checker.close()
    assert checker.open == []
    return checker


@pytest.fixture(scope="module")
def written(whole_report: Page, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return page.write(whole_report, tmp_path_factory.mktemp("page"))


def test_page_embeds_its_pictures(written: Path, whole_report: Page) -> None:
    # The picture for a wide screen comes first: a browser takes the first that matches.
    names = [
        name
        for section in whole_report.sections
        for block in section.blocks
        if isinstance(block, Picture)
        for name in reversed(block.figures)
    ]
    assert "training-images-wide" in names
    sources = [one for one in parse(written).elements if one[0] in ("img", "source")]
    assert len(sources) == len(list(written.parent.glob("*.png")))
    for (tag, attributes), name in zip(sources, names, strict=True):
        head, data = attributes["src" if tag == "img" else "srcset"].split(",")
        assert head == "data:image/png;base64"
        png = base64.b64decode(data, validate=True)
        assert png == (written.parent / f"{name}.png").read_bytes()
        with Image.open(io.BytesIO(png)) as image:
            size = (int(attributes["width"]), int(attributes["height"]))
            assert np.asarray(image.size) / 2 == pytest.approx(size, abs=1)
        assert tag == "source" or len(attributes["alt"]) > 10


def test_texts_in_all_pictures_are_legible(
    whole_report: Page, histories: list[History], digits: Dataset
) -> None:
    fashion = contents.report(histories, dataclasses.replace(digits, name="fashion_mnist"), [0])
    for report in (whole_report, fashion):
        blocks = [block for section in report.sections for block in section.blocks]
        pictures = [block for block in blocks if isinstance(block, Picture)]
        assert any(picture.wide for picture in pictures)
        for picture in pictures:
            check_legible(picture.figure, PHONE)
            if picture.wide is not None:
                check_legible(picture.wide, SCREEN)


def test_every_value_has_its_name_where_rows_are_cards(written: Path) -> None:
    elements = parse(written).elements
    viewport = {"name": "viewport", "content": "width=device-width, initial-scale=1"}
    assert ("meta", viewport) in elements
    start = [attributes.get("class") for _, attributes in elements].index("table cards")
    names = [attributes.get("data-name") for tag, attributes in elements[start:] if tag == "td"]
    head = ["seed", "state", "selected epoch", "test accuracy", "test loss", "minutes"]
    assert names[:12] == [*head, *head]


def test_page_needs_no_other_files(written: Path) -> None:
    elements = parse(written).elements
    for tag, attributes in elements:
        assert tag not in ("script", "iframe", "object")
        for name in ("src", "href", "srcset"):
            assert attributes.get(name, "#").startswith(("#", "data:"))
    targets = {attributes.get("id") for _, attributes in elements}
    links = [attributes["href"][1:] for tag, attributes in elements if tag == "a"]
    assert links
    assert set(links) <= targets
    assert "@import" not in written.read_text()
    assert "url(" not in written.read_text()


def test_everything_is_escaped(tmp_path: Path) -> None:
    special = "</td><script>alert('1')</script> & \"$title\""
    figure = Figure(figsize=(1, 1))
    blocks: list[Block] = [
        Picture("one", figure, special, special),
        Table([special], [[special], [special]], numbers=[0]),
        Code(special),
        Text(special),
    ]
    checker = parse(page.write(Page(special, [Section(special, blocks)]), tmp_path))
    assert "script" not in [tag for tag, _ in checker.elements]
    (alt,) = (attributes["alt"] for tag, attributes in checker.elements if tag == "img")
    assert alt == special
    assert checker.text.count(special) == 10


# Measures the layout.
_MEASURES = """() => ({
  window: innerWidth,
  content: document.documentElement.scrollWidth,
  cut: [...document.querySelectorAll(".table, .code")].filter(
    box => box.scrollWidth > box.clientWidth).length,
  columns: [...document.querySelectorAll(".pictures")].map(row => new Set(
    [...row.children].map(figure => figure.getBoundingClientRect().left)).size),
  card: getComputedStyle(document.querySelector(".cards tr")).display,
  letters: Math.min(...[...document.querySelectorAll("main *")].map(
    element => parseFloat(getComputedStyle(element).fontSize))),
  images: [...document.images].map(image => image.naturalWidth),
})"""


@pytest.mark.parametrize(("width", "card", "columns"), [(390, "block", 1), (1280, "table-row", 3)])
def test_browser_fits_the_page_to_its_width(
    written: Path, browser: Any, width: int, card: str, columns: int
) -> None:
    shown = browser.new_page(viewport={"width": width, "height": 800})
    messages: list[str] = []
    shown.on("console", lambda message: messages.append(message.text))
    shown.goto(written.as_uri())
    assert "How to reproduce it" in shown.content()
    found = shown.evaluate(_MEASURES)
    assert (found["window"], found["card"], max(found["columns"])) == (width, card, columns)
    assert found["content"] <= width
    assert found["cut"] == 0
    assert found["letters"] >= 12
    assert len(found["images"]) == written.read_text("utf-8").count("<img ")
    assert min(found["images"]) > 0
    assert messages == []

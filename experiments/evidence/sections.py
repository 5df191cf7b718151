"""Generated parts of pages, between `<!-- name -->` and `<!-- end -->`."""

import re
from collections.abc import Mapping
from pathlib import Path

from mnist_jax.errors import Failure


def names(page: Path) -> list[str]:
    """The names of a page's generated parts, in order."""
    found = re.findall(r"^<!-- (.+) -->$", page.read_text(), re.MULTILINE)
    return [name for name in found if name != "end"]


def filled(page: Path, parts: Mapping[str, str]) -> str:
    """A page's text with the named parts replaced.

    Raises:
      Failure: a part is missing or occurs more than once.
    """
    text, end = page.read_text(), "<!-- end -->"
    for name, content in parts.items():
        begin = f"<!-- {name} -->\n"
        before, *others = text.split(begin)
        if len(others) != 1 or end not in others[0]:
            raise Failure(f"{page} must have {begin.strip()} once, and {end} after it.")
        after = others[0].partition(end)[2]
        text = f"{before}{begin}\n{content.strip()}\n\n{end}{after}"
    return text

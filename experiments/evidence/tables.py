"""Tables, and sections of one, in Markdown."""

from collections.abc import Iterable, Sequence


def section(title: str, text: str, rows: Sequence[Sequence[str]]) -> str:
    """A section of one table; nothing if the table has only its head."""
    if len(rows) == 1:
        return ""
    return "\n".join([title, "", *([text] if text else []), markdown(rows), ""])


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """A table, without a line's end; its first row is the head."""
    head, *others = rows
    return "\n".join(map(_line, [head, ["---"] * len(head), *others]))


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"

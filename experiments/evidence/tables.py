"""Markdown tables, and sections with one."""

from collections.abc import Iterable, Sequence


def section(title: str, text: str, rows: Sequence[Sequence[str]]) -> str:
    """A section with one table; empty if the table has only its header."""
    if len(rows) == 1:
        return ""
    return "\n".join([title, "", *([text] if text else []), markdown(rows), ""])


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """A table without a final newline; its first row is the header."""
    head, *others = rows
    return "\n".join(map(_line, [head, ["---"] * len(head), *others]))


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"

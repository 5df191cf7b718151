"""Measures how far the networks are from their articles': `python -m experiments.identity`.

Needs PyTorch; stores its results in docs/identity.json and writes the tables of docs/identity.md.
"""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.contenders import measurements, page
from experiments.evidence import sections, tables
from experiments.references import limits, require_torch
from mnist_jax import cli
from mnist_jax.files import write_text

_DOCS = Path(__file__).parents[1] / "docs"
PAGE, KEPT = _DOCS / "identity.md", _DOCS / "identity.json"


def main(argv: Sequence[str]) -> None:
    """Measures everything and writes the file and the page."""
    del argv
    require_torch()
    # Imported here, once PyTorch is known to be installed.
    from experiments.references import identity

    circumstances = measurements.circumstances("experiments.identity")
    images = "MNIST and Fashion-MNIST" if "MNIST_JAX_DATA_DIR" in os.environ else "the digits"
    measured = circumstances | {"images": images} | identity.differences()
    write_text(KEPT, json.dumps(measured, indent=1, ensure_ascii=False) + "\n")
    write_text(PAGE, text(measured))


def text(measured: Mapping[str, Any]) -> str:
    """The page with the tables of the measurements."""
    moved = measured["training_mode"]
    ties = max(row["by Theano's rule"] for row in measured["theano"])
    return sections.filled(
        PAGE,
        {
            "circumstances": f"{page.when_and_where(measured)}; on {measured['images']}.",
            "torch": "\n".join(
                [
                    tables.markdown(_torch(measured["torch"])),
                    "",
                    "Article E's evaluation as published (training mode, same dropout masks)"
                    f" differs by {_number(moved['logits'])} in its logits, relative to the"
                    f" largest, and by {_number(moved['statistics'])} in the running statistics"
                    " that it updates.",
                ]
            ),
            "theano": "\n".join(
                [
                    tables.markdown(_theano(measured["theano"])),
                    "",
                    f"With Theano's rule, a weight or bias differs by up to {_number(ties)}.",
                ]
            ),
        },
    )


def _torch(rows: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
    """One line per network, with its own limit where it differs from the heading's."""
    before_training = [*limits.TORCH].index("losses")
    headings = [f"{what} ({_number(most)})" for what, most in limits.TORCH.items()]
    headings[before_training] = f"50 steps: {headings[before_training]}"
    table = [["network", *headings[:-1], "right (=)", headings[-1]]]
    for network, found in rows.items():
        cells = []
        for what, most in limits.TORCH.items():
            own = limits.of_torch(what, network)
            cell = _number(found[what]) if what in found else ""
            cells.append(f"{cell} ({_number(own)})" if cell and own != most else cell)
        right = " = ".join(str(count) for count in found.get("right", ()))
        table.append([network, *cells[:-1], right, cells[-1]])
    return table


def _theano(rows: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    headings = [f"{what} ({_number(most)})" for what, most in limits.THEANO.items()]
    table = [["network", "dense units", "λ", *headings, "weights with Theano's rule"]]
    for row in rows:
        numbers = [_number(row[what]) for what in (*limits.THEANO, "by Theano's rule")]
        table.append([row["network"], str(row["dense units"]), f"{row['λ']:g}", *numbers])
    return table


def _number(value: float) -> str:
    """One digit, such as 3e-12."""
    return f"{value:.0e}".replace("e-0", "e-") if value else "0"


if __name__ == "__main__":
    cli.run(main)

"""Model cards of pretrained weights, in the format of Hugging Face."""

import dataclasses
import inspect
from collections.abc import Mapping
from dataclasses import dataclass

from experiments.evidence import analysis, tables, text
from experiments.evidence.results import Results
from mnist_jax.interchange.pretrained import LARGEST_IN_PACKAGE, RELEASES, Origin
from mnist_jax.models import model_entry, model_names
from mnist_jax.recipe import Recipe, options


@dataclass(frozen=True)
class _Data:
    """What a card says of a dataset."""

    name: str
    hub: str
    about: str


_DATA = {
    "mnist": _Data(
        "MNIST",
        "ylecun/mnist",
        "60,000 training and 10,000 test images of handwritten digits, by Yann LeCun, Corinna"
        " Cortes and Christopher Burges from NIST's collections; said to be under CC BY-SA 3.0.",
    ),
    "fashion_mnist": _Data(
        "Fashion-MNIST",
        "zalando-datasets/fashion_mnist",
        "60,000 training and 10,000 test images of articles of clothing, by Zalando Research,"
        " under the MIT license.",
    ),
}


def table(origins: Mapping[str, Origin]) -> str:
    """What there is, as a table of the networks with and the names of those without."""
    rows = [["network", "a seed of", "right, of the test images", "size"]]
    for name in model_names():
        if name in origins:
            one = origins[name]
            link = f"[`{name}`](../mnist_jax/pretrained/{name}/README.md)"
            right = f"{one.correct:,} of {one.images:,} ({one.correct / one.images:.2%})"
            size = f"{one.size / 2**20:.1f} MiB"
            if one.size >= LARGEST_IN_PACKAGE:
                size += ", a release file"
            rows.append([link, f"`{one.row}`", right, size])
    without = [f"`{name}`" for name in model_names() if name not in origins]
    end = ["", f"Without weights so far: {', '.join(without)}."] if without else []
    return "\n".join([tables.markdown(rows), *end])


def card(origin: Origin, results: Results) -> str:
    """The card of one file of weights, from the records of its row."""
    name, recipe = origin.recipe.model, origin.recipe
    article, row = origin.row.split("/")
    data, entry = _DATA[recipe.dataset], model_entry(name)
    accuracies = [record.accuracy for record in results.by_seed(origin.row).values()]
    of_row = []
    if accuracies:  # A record may have been taken out, to be run again.
        summary = analysis.percentages(accuracies)
        of_row = [[f"the row `{origin.row}`", f"{text.mean(summary)}% (n = {summary.n})"]]
    published = "; ".join(figure.printed for figure in results.row(origin.row).figures)
    about = (inspect.getdoc(entry.network) or "").partition("\n")[0]
    accuracy = [
        ["what", f"test accuracy on {data.name}"],
        [
            f"this file, seed {recipe.seed}",
            f"{origin.correct / origin.images:.2%}: {origin.correct:,} of {origin.images:,}",
        ],
        *of_row,
        ["the article", published],
    ]
    return f"""\
---
license: mit
library_name: mnist_jax
pipeline_tag: image-classification
tags: [image-classification, jax, flax, {recipe.dataset.replace("_", "-")}]
datasets: [{data.hub}]
metrics: [accuracy]
model-index:
- name: {name}
  results:
  - task: {{type: image-classification}}
    dataset: {{type: {data.hub}, name: {data.name}, split: test}}
    metrics: [{{type: accuracy, value: {origin.correct / origin.images}}}]
---

# {name}

{about}

Article {entry.article}.

This card is written by `python -m experiments.compare` from the records of the network's runs.

## Accuracy

{tables.markdown(accuracy)}

The row's figure is mean ± standard deviation over *n* runs of one recipe that differ in their seed,
and may differ in the revision of this code and the number of processors, each at the epoch that its
protocol selects, never by test images. This file is one of those runs, and no better evidence than
its place among them. An accuracy on 10,000 images has a standard error of
its own, 0.10 points at 99%.

## Use

```python
import mnist_jax

run = mnist_jax.load_pretrained("{name}")
run.probabilities(images)  # uint8 [N, 28, 28] to [N, 10]
```

`python -m mnist_jax.predict --model={name} picture.png` classifies pictures, and
`python -m mnist_jax.export --model={name} --to={name}.onnx` writes ONNX. The tensors have the names
and shapes of the author's PyTorch module, or those that it would have.

{_file(origin)}

## Protocol

{tables.markdown(_protocol(recipe))}

## Data

{data.name}: {data.about}

## Limits

- It knows the ten classes of {data.name} and gives every image one of them, whatever it shows.
- It expects images framed as the dataset frames them, 28×28, light on dark; `predict` does that for
  scans and photographs, and warns where what comes out is unlike the training images.
- {_outputs(recipe)}
- It was trained to repeat an article, not to be relied on: no decision about people should hang on
  it.

## Licence

MIT, as the code; the images have the licence that is named above.

## How to reproduce

```
git checkout {origin.revision}
python -m experiments.{article} --experiment={row} --num_seeds=1 --first_seed={recipe.seed} \\
  --results=again --workdir=again
```

trains it again from the same seed. {_bits(origin, results)}
"""


def _bits(origin: Origin, results: Results) -> str:
    """How nearly what is trained again is the file."""
    article, _, _ = origin.row.partition("/")
    where = f"which its record in `experiments/results/{article}.jsonl` names"
    record = results.by_seed(origin.row).get(origin.recipe.seed)
    environment = record.environment if record else {}
    earlier = [one["git"]["revision"][:7] for one in environment.get("before", []) if one["git"]]
    if earlier := [one for one in earlier if not origin.revision.startswith(one)]:
        return (
            f"The file is of a run that {', '.join(f'`{one}`' for one in earlier)} began and this"
            " revision went on with, so it is repeated up to rounding, which training amplifies."
        )
    threads = environment.get("device", {}).get("threads", 1)
    mesh = environment.get("device", {}).get("mesh", {})
    alone = mesh.get("data", 1) * threads == 1
    return (
        f"On the same machine, versions and number of processors, {where}, it gives the same"
        f" bits{'; that was one (`taskset --cpu-list 0 python …`)' if alone else ''}."
    )


def _protocol(recipe: Recipe) -> list[list[str]]:
    """What the recipe has that is not a default."""
    defaults = {field.name: field.default for field in dataclasses.fields(Recipe)}
    rows = [["field", "value", "what it is"]]
    for option in options():
        value = getattr(recipe, option.name)
        if value != defaults[option.name] and value != {}:
            rows.append([f"`{option.name}`", f"`{value}`", option.what])
    return rows


def _file(origin: Origin) -> str:
    if origin.size < LARGEST_IN_PACKAGE:
        where = "`model.safetensors`, beside this card"
    else:
        where = (
            f"`{origin.release}`, beside this card in a checkout; the package, which lacks it,"
            f" looks for it at `${RELEASES}`"
        )
    return f"File: {where}; {origin.size:,} bytes, SHA-256 `{origin.sha256}`."


def _outputs(recipe: Recipe) -> str:
    if recipe.loss == "cross_entropy":
        return "Its probabilities are the softmax of its logits, not calibrated."
    return (
        "It was trained on squared errors: its outputs are scores from 0 to 1, and what are given"
        " for probabilities are these scaled to a sum of 1."
    )

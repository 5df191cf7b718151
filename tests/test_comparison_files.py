"""Pages and tables written from records: from synthetic ones, and the committed ones from ours."""

import dataclasses
import json
import re
import shutil

import pytest
from scipy import stats
from toy_records import ARTICLE, record, results_of

from experiments import compare
from experiments.evidence import exports, records, rendering
from experiments.evidence.results import Results
from experiments.evidence.rows import all_articles, unmeasured
from mnist_jax.errors import Failure
from mnist_jax.interchange.pretrained import FOLDER, Origin, pretrained_names
from mnist_jax.models import model_names


def test_tables_show_the_records(tmp_path):
    results = results_of(tmp_path, *(record(seed, 8 + seed, dirty=seed > 0) for seed in range(3)))
    text = rendering.markdown(results)
    assert "| `plain` | 91.00%, PyTorch; last epoch | 91.00 ± 1.00 (n = 3) | 90.00–92.00 |" in text
    assert "|  | 99.5%, PyTorch; last epoch; elsewhere |  |  | above |" in text
    assert (
        "The 3 rows have 4 published figures: 1 inside, 1 above, 1 not run, 1 provisional." in text
    )
    # Our mean equals the first figure; the second differs from it by 8.45.
    p = 2 * (2 * stats.t.sf(8.45 / (4 / 3) ** 0.5, 2))
    assert "2 figures are tested, each against a 95% interval, so about 0.1 would be" in text
    assert f"by Holm's method over the 2 that have one, is {p:.3g}.\n" in text
    (missing,) = re.findall(r"^- T, `toy`: .*", text, re.MULTILINE)
    assert missing == "- T, `toy`: `plain` (2), `variant` (5)"
    # Each took one core a minute.
    (line,) = re.findall(r"^\| T, `toy` \| .*", text, re.MULTILINE)
    assert line == "| T, `toy` | 2 | 1 | 1 | 7 | 0.1 |"
    assert "- `plain`: seeds 1, 2 ran code that is not a committed revision." in text
    head, line, other, vote = exports.csv_table(results).splitlines()
    assert line.startswith("toy,plain,91.00%,91.0,PyTorch,last epoch,nowhere,jax,3,91.0000,1.0000,")
    assert other.startswith("toy,plain,99.5%,99.5,PyTorch,last epoch,elsewhere,jax,3,91.0000,")
    assert vote.startswith("toy,vote,92.00%,92.0,PyTorch,majority vote,nowhere,jax,1,91.0000,,")
    assert len({one.count(",") for one in (head, line, other, vote)}) == 1
    assert r"T & plain & 91.00\% (PyTorch) & 3 & 91.00 $\pm$ 1.00 &" in exports.latex(results)
    assert r"T & vote & 92.00\% (PyTorch) & 1 & 91.00 &" in exports.latex(results)
    tables = [part for part in text.split("\n\n") if part.startswith("|")]
    assert len(tables) >= 3
    for table in tables:
        assert len({line.count("|") for line in table.splitlines()}) == 1


def test_committed_files_are_up_to_date_with_the_records(tmp_path):
    tables = shutil.ignore_patterns("table.*")
    copy = shutil.copytree(records.RESULTS, tmp_path / "results", ignore=tables)
    elsewhere, here = compare.files(copy), compare.files()
    assert [path.name for path in elsewhere] == ["RESULTS.md", "table.csv", "table.tex"]
    assert not [path for path, text in here.items() if path.read_text() != text], "out of date"
    # Only the committed pages have summaries, and cards lie beside the weights.
    here = {path: text for path, text in here.items() if not path.is_relative_to(FOLDER)}
    summary = here.pop(records.RESULTS.parent / "README.md")
    best = here.pop(records.RESULTS.parents[1] / "README.md").split("<!-- best -->")[1]
    assert re.match(r"\s*Among rows with at least 3 runs, .* The best vote is that of ", best)
    times, in_use = (
        here.pop(records.RESULTS.parents[1] / "docs" / name)
        for name in ("sweeps.md", "networks_in_use.md")
    )
    assert list(elsewhere.values()) == list(here.values())
    assert "| seeds per row | runs |" in times.split("<!-- times -->")[1]
    shipped = in_use.split("<!-- pretrained -->")[1].split("<!-- end -->")[0]
    assert all(f"`{name}`" in shipped for name in model_names())
    for name in pretrained_names():
        (line,) = re.findall(rf"^\| \[`{name}`\].*", shipped, re.MULTILINE)
        assert f" {Origin.load(FOLDER / name).correct:,} of 10,000 (" in line
    headline = here[records.RESULTS.parent / "RESULTS.md"].split("## Results\n\n")[1].split("\n")[0]
    first, second = (
        summary.split(f"<!-- {part} -->\n")[1].split("<!-- end -->")[0].strip().splitlines()
        for part in ("results", "others")
    )
    rows = [f"{article.letter} `{row.id}`" for article in all_articles() for row in article.entries]
    assert first[0] == headline
    listed = [line.split(" | ")[0] for line in (*first[4:], *second[2:])]
    assert sorted(listed) == sorted(f"| {row}" for row in rows)
    assert not [
        line for line in first[4:] if "not run" in line.split(" | ")[2:3] or "no figure" in line
    ]


def test_summary_has_a_line_for_each_row(tmp_path):
    results = results_of(tmp_path, *(record(seed, 8 + seed) for seed in range(3)))
    head = ["| row | published | ours, % | n | verdict |", "| --- | --- | --- | --- | --- |"]
    assert rendering.summary(results).splitlines()[2:] == [
        *head,
        "| T `plain` | 91.00%; 99.5% | 91.00 ± 1.00 | 3 | inside; above |",
        "| T `vote` | 92.00% | 91.00 | 1 | provisional |",
    ]
    assert rendering.others(results).splitlines() == [
        *head,
        "| T `variant` | nothing | not run |  |  |",
    ]


def test_runs_that_exceed_a_claimed_accuracy_are_counted(tmp_path):
    claim = unmeasured('"exceeds 91%"', "nowhere", "no protocol", exceeds=91.0)
    row = dataclasses.replace(ARTICLE.rows[0], figures=(claim,))
    article = dataclasses.replace(ARTICLE, rows=(row, ARTICLE.rows[1]))
    results = results_of(tmp_path, *(record(seed, 8 + seed) for seed in range(3)))
    text = rendering.markdown(dataclasses.replace(results, articles=[article]))
    # Errors on 8, 9 and 10 of 100; 91% is not more than 91%.
    assert "- `plain`: 1 of our 3 runs exceed 91%; the best reaches 92.00%.\n" in text


def test_memory_is_taken_from_the_benchmark(tmp_path):
    kept = json.loads((compare._SWEEPS.parent / "benchmarks" / "training.json").read_text())
    (measured,) = (
        f"{row['peak_memory_mib']:,.0f} MiB"
        for row in kept["rows"]
        if (row["model"], row["batch_size"], row["variant"]) == ("cmu_cnn", 100, "ours")
    )
    (article,) = (one for one in all_articles() if one.letter == "C")
    text = rendering.markdown(Results.load([article], tmp_path))
    assert f"| Training and Testing | {measured} | 2 CPU cores |\n" in text


def test_marked_sections_of_a_page_are_rewritten(tmp_path, monkeypatch):
    home = tmp_path / "experiments"
    (home / "results").mkdir(parents=True)
    results_of(home / "results", record())
    monkeypatch.setattr(compare, "all_articles", lambda: [ARTICLE])
    monkeypatch.setattr("mnist_jax.interchange.pretrained.pretrained_names", list)
    page = home / "README.md"
    part = "<!-- {} -->\nold\n<!-- end -->\nafter\n"
    page.write_text("Before\n" + part.format("results") + part.format("others"))
    monkeypatch.setattr(records, "RESULTS", home / "results")
    made = compare.files(home / "results")[page]
    assert made.startswith("Before\n<!-- results -->\n\nThe ")
    assert made.endswith("|\n\n<!-- end -->\nafter\n")
    page.write_text(made)
    assert compare.files(home / "results")[page] == made
    page.write_text("no place for it\n")
    with pytest.raises(Failure, match=r"README.md must have <!-- results --> once, and <!-- end"):
        compare.files(home / "results")

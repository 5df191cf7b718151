"""Settings every test runs under, and what several files of tests look at.

Eight virtual CPU devices, strict dtype and rank promotion.
"""

import dataclasses
import gc
import os
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Before JAX is imported: a compiled program from the cache makes XLA log that the processor lacks
# "+prefer-no-gather", which is a preference of the compiler and no feature of any processor.
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import jax
import pytest
import robustness
from commands import COMPILED
from report_runs import write_runs
from small_runs import Normed, train_small

from mnist_jax.data import Dataset, load_dataset
from mnist_jax.models import model_entry, registry
from mnist_jax.recipe import Recipe
from mnist_jax.reporting import contents
from mnist_jax.reporting.history import History, read_histories
from mnist_jax.reporting.page import Page
from mnist_jax.training import compiled

# Before the backend starts: the data-parallel tests need several devices.
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")
# Traced and compiled programs stay to the end: a sixth of the time went into looking at them for
# what is garbage.
gc.set_threshold(50_000, 20, 100)
# Compilation is most of the suite's time, and tests compile the same programs again.
compiled.keep_in(COMPILED)


@pytest.fixture(scope="session")
def digits() -> Dataset:
    return load_dataset("digits")


@pytest.fixture(scope="session")
def runs_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seeds' runs, as `report_runs` writes them."""
    path = tmp_path_factory.mktemp("runs")
    write_runs(path)
    return path


@pytest.fixture(scope="session")
def histories(runs_folder: Path) -> list[History]:
    return read_histories([runs_folder])


@pytest.fixture(scope="session")
def whole_report(histories: list[History], digits: Dataset) -> Page:
    return contents.report(histories, digits, [5, 0])


@pytest.fixture
def normed(monkeypatch: pytest.MonkeyPatch) -> Recipe:
    """Two steps an epoch, for two epochs, of a network with BatchNorm and dropout."""
    entry = model_entry("batchnorm_cnn")
    recipe = dataclasses.replace(entry.recipe, model="normed", batch_size=60, epochs=2)
    entry = dataclasses.replace(entry, network=Normed, recipe=recipe)
    monkeypatch.setitem(registry._ENTRIES, "normed", entry)
    return recipe


@pytest.fixture
def short_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    """One step at a time, so that there are many places to stop at."""
    monkeypatch.setattr("mnist_jax.training.session._REPORT_EVERY", 0.0)


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was never interrupted, with a checkpoint after every step."""
    path = tmp_path_factory.mktemp("whole") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mnist_jax.training.session._REPORT_EVERY", 0.0)
        train_small([path], save_every=0.0)
    return path


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Path:
    """The same, to be changed."""
    return Path(shutil.copytree(whole, tmp_path / "copy"))


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium; what needs it is skipped where it is not to be had."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="there is no playwright")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("there is no chromium")
    with sync_api.sync_playwright() as playwright:
        options = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        running = playwright.chromium.launch(executable_path=chromium, args=options)
        yield running
        running.close()


@pytest.fixture(scope="module")
def tally(request: pytest.FixtureRequest) -> Iterator[Counter[str]]:
    """Counts what was done, and says so at the end."""
    counts: Counter[str] = Counter()
    failed_before = request.session.testsfailed
    yield counts
    plugins = request.config.pluginmanager
    with plugins.getplugin("capturemanager").global_and_fixture_disabled():
        lines = (f"{number} {what}" for what, number in sorted(counts.items()))
        plugins.getplugin("terminalreporter").write_line("\n" + "\n".join(lines))
    failed = request.session.testsfailed > failed_before
    whole = not (failed or request.config.option.keyword)
    if whole and os.environ.get("MNIST_JAX_FAULTS") == "long":
        robustness.record(request.module.__name__, counts)

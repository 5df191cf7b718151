"""Settings of all tests, and fixtures that several test modules share.

JAX has eight virtual CPU devices, and implicit rank promotion is an error.
"""

import dataclasses
import gc
import os
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Before JAX is imported: loading a compiled program from the cache makes XLA log an error about
# "+prefer-no-gather", which is a compiler preference, not a feature that the processor lacks.
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
# Traced and compiled programs live until the end; the garbage collector spent a sixth of the time
# on traversing them.
gc.set_threshold(50_000, 20, 100)
# Most of the time is spent on compiling, and many tests compile the same programs.
compiled.keep_in(COMPILED)


@pytest.fixture(scope="session")
def digits() -> Dataset:
    return load_dataset("digits")


@pytest.fixture(scope="session")
def runs_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runs of two seeds, as written by `report_runs`."""
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
def batch_norm_recipe(monkeypatch: pytest.MonkeyPatch) -> Recipe:
    """A recipe of two epochs of two steps, for a network with BatchNorm and dropout."""
    entry = model_entry("batchnorm_cnn")
    recipe = dataclasses.replace(entry.recipe, model="normed", batch_size=60, epochs=2)
    entry = dataclasses.replace(entry, network=Normed, recipe=recipe)
    monkeypatch.setitem(registry._ENTRIES, "normed", entry)
    return recipe


@pytest.fixture
def short_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes training report, and check whether to stop, after every step."""
    monkeypatch.setattr("mnist_jax.training.session._REPORT_EVERY", 0.0)


@pytest.fixture(scope="session")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run that saved a checkpoint after every step."""
    path = tmp_path_factory.mktemp("uninterrupted") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mnist_jax.training.session._REPORT_EVERY", 0.0)
        train_small([path], save_every=0.0)
    return path


@pytest.fixture
def run_copy(uninterrupted: Path, tmp_path: Path) -> Path:
    """A copy of `uninterrupted`, for a test to modify."""
    return Path(shutil.copytree(uninterrupted, tmp_path / "copy"))


@pytest.fixture
def one_torch_thread() -> Iterator[None]:
    """PyTorch's threads busy-wait, which starves JAX's on a machine with few cores."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium; tests that need it are skipped where it is not installed."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("Chromium is not installed")
    with sync_api.sync_playwright() as playwright:
        options = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        instance = playwright.chromium.launch(executable_path=chromium, args=options)
        yield instance
        instance.close()


@pytest.fixture(scope="module")
def tally(request: pytest.FixtureRequest) -> Iterator[Counter[str]]:
    """Counts of the faults injected by a test module, printed at its end.

    The long version also stores them for `docs/robustness.md`.
    """
    counts: Counter[str] = Counter()
    failed_before = request.session.testsfailed
    yield counts
    plugins = request.config.pluginmanager
    with plugins.getplugin("capturemanager").global_and_fixture_disabled():
        lines = (f"{number} {what}" for what, number in sorted(counts.items()))
        plugins.getplugin("terminalreporter").write_line("\n" + "\n".join(lines))
    failed = request.session.testsfailed > failed_before
    complete = not (failed or request.config.option.keyword)
    if complete and os.environ.get("MNIST_JAX_FAULTS") == "long":
        robustness.record(request.module.__name__, counts)

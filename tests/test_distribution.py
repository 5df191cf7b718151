"""The wheel has the whole package and nothing else, and works once installed."""

import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

from mnist_jax.interchange.pretrained import LARGEST_IN_PACKAGE
from mnist_jax.version import __version__

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def git(*arguments: str | Path) -> str:
    done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=True)
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from a source distribution of the tracked files, as by `make dist`."""
    source, target = (tmp_path_factory.mktemp(name) for name in ("source", "dist"))
    # A copy, since setuptools writes into the folder that it builds.
    for name in git("-C", ROOT, "ls-files", "-z").split("\0")[:-1]:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes((ROOT / name).read_bytes())
    build: list[str | Path] = [
        sys.executable,
        "-m",
        "build",
        "--no-isolation",
        "--outdir",
        target,
        source,
    ]
    done = subprocess.run(build, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = target.glob("*.whl")
    return path


def test_wheel_has_exactly_the_files_of_the_package(wheel: Path) -> None:
    files = zipfile.ZipFile(wheel).namelist()
    packed = {name for name in files if ".dist-info/" not in name}
    tracked = set(git("-C", ROOT, "ls-files", "mnist_jax").split())
    assert packed == {n for n in tracked if (ROOT / n).stat().st_size < LARGEST_IN_PACKAGE}
    assert f"mnist_jax-{__version__}.dist-info/licenses/LICENSE" in files


def test_twine_accepts_wheel_and_source_distribution(wheel: Path) -> None:
    command: list[str | Path] = [
        sys.executable,
        "-m",
        "twine",
        "check",
        "--strict",
        *wheel.parent.iterdir(),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout.count("PASSED")) == (0, 2), done.stdout


@pytest.mark.slow
def test_installed_wheel_works_outside_the_checkout(wheel: Path, tmp_path: Path) -> None:
    environment = tmp_path / "environment"
    venv.create(environment, with_pip=False)
    python = environment / "bin" / "python"
    packages = Path(sysconfig.get_path("purelib", vars={"base": str(environment)}))
    (packages / "packages_of_the_tests.pth").write_text(sysconfig.get_path("purelib"))
    install: list[str | Path] = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        python,
        "install",
        "--no-deps",
        wheel,
    ]
    subprocess.run(install, capture_output=True, check=True)
    # A user's own repository, with the environment in it.
    git("-C", tmp_path, "init")
    author = ("-c", "user.name=A", "-c", "user.email=a@b.c")
    git("-C", tmp_path, *author, "commit", "--allow-empty", "-m", "First.")
    command: list[str | Path] = [python, "-I", ROOT / "tests" / "installed.py"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"mnist_jax {__version__}, installed in {environment}, works." in done.stdout


def test_lower_bounds_are_the_pinned_versions() -> None:
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    pinned = [Requirement(line) for line in lines if not line.startswith("#")]
    wanted = [Requirement(line) for line in PROJECT["dependencies"]]
    assert [one.name for one in wanted] == [one.name for one in pinned]
    for ours, pin in zip(wanted, pinned, strict=True):
        version = str(pin.specifier).removeprefix("==")
        assert f">={version}" in str(ours.specifier).split(",")
        assert version in ours.specifier


def test_citation_matches_the_package_metadata() -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert cited["version"] == __version__
    assert cited["license"] == PROJECT["license"]
    assert cited["keywords"] == PROJECT["keywords"]
    assert [author["name"] for author in cited["authors"]] == [
        author["name"] for author in PROJECT["authors"]
    ]

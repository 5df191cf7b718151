"""A smoke test of an installed package, run by its environment's Python in an empty folder.

`make dist` runs it in a fresh environment, `test_distribution.py` in one that also has the packages
of the tests.
"""

import importlib
import json
import pkgutil
import subprocess
import sys
from pathlib import Path

from absl import flags
from PIL import Image, ImageDraw

import mnist_jax
from mnist_jax.data import load_dataset

HERE = Path.cwd()
PROGRAMS = Path(sys.executable).parent


def command(*arguments: str) -> str:
    """Runs the console script; returns what it prints."""
    done = subprocess.run(
        [PROGRAMS / "mnist-jax", *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


home = Path(mnist_jax.__file__).parent
assert home.is_relative_to(sys.prefix), f"{home} is not the installed package"
for module in pkgutil.walk_packages(mnist_jax.__path__, "mnist_jax."):
    for flag in list(flags.FLAGS):  # Only one command's flags can be defined at a time.
        delattr(flags.FLAGS, flag)
    if module.name != "mnist_jax.__main__":
        importlib.import_module(module.name)

assert command("--version") == f"mnist_jax {mnist_jax.__version__}\n"
command("train", "--model=cmu_cnn", "--dataset=digits", "--epochs=1", "--workdir=run")
assert json.loads((HERE / "run/result.json").read_text())["test_accuracy"] > 0.5
# The folder may be in a git repository, which is not the package's.
assert json.loads((HERE / "run/environment.json").read_text())["git"] is None

picture = Image.new("L", (280, 280), "white")
ImageDraw.Draw(picture).line([(80, 60), (200, 60), (130, 230)], fill="black", width=22)
picture.save("seven.png")
label = json.loads(command("predict", "--model=dbl_conv_relu", "--json", "seven.png"))["label"]
assert label == 7, label
images = load_dataset("digits").test.images
assert mnist_jax.load_pretrained("dbl_conv_relu").probabilities(images[:7]).shape == (7, 10)
command("demo", "--model=dense", "--to=demo.html")
assert "<canvas" in (HERE / "demo.html").read_text()
command("export", "--workdir=run", "--to=network.stablehlo")
assert (HERE / "network.stablehlo").stat().st_size > 0
sys.stdout.write(f"mnist_jax {mnist_jax.__version__}, installed in {sys.prefix}, works.\n")

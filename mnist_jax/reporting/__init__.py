"""Pictures of runs and the pages they stand on: all that needs Matplotlib."""

from importlib.util import find_spec

from mnist_jax.errors import Failure

if find_spec("matplotlib") is None:
    raise Failure("Pictures need Matplotlib, which is missing; pip install matplotlib.")

"""Code that needs a process of its own."""

import importlib.util
import os
import subprocess
import sys

import keras
import pytest

BACKENDS = [name for name in ("jax", "tensorflow", "torch") if importlib.util.find_spec(name)]
# To load what this one saved: over all suites each loads what another saved, and the other pairs are slow tests.
NEXT = BACKENDS[(BACKENDS.index(keras.backend.backend()) + 1) % len(BACKENDS)]
EVERY_BACKEND = [pytest.param(name, marks=() if name == NEXT else pytest.mark.slow) for name in BACKENDS]


def run_python(code, *args, backend):
    """Returns what `code` prints in a new process with the Keras backend `backend`."""
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, args)],
        env={**os.environ, "KERAS_BACKEND": backend},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout

"""Code that needs a process of its own."""

import importlib.util
import os
import subprocess
import sys

BACKENDS = [name for name in ("jax", "tensorflow", "torch") if importlib.util.find_spec(name)]


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

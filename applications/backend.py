"""Choosing Keras's backend before Keras is imported."""

import importlib.util
import os

from applications.errors import UserError

BACKENDS = ("jax", "tensorflow", "torch")


def choose_backend(name=None):
    """Sets `KERAS_BACKEND` to `name`, or leaves it, or sets the first backend that is installed.

    Must run before the first import of Keras.

    Args:
        name: `"jax"`, `"tensorflow"`, `"torch"` or `None`.

    Returns:
        The backend's name.

    Raises:
        UserError: If the backend is unknown or not installed.
    """
    installed = [backend for backend in BACKENDS if importlib.util.find_spec(backend)]
    name = name or os.environ.get("KERAS_BACKEND") or next(iter(installed), BACKENDS[0])
    if name not in BACKENDS:
        raise UserError(f"unknown backend {name!r}; known: {', '.join(BACKENDS)}")
    if name not in installed:
        raise UserError(f"backend {name!r} is not installed; try: pip install 'keras-laurel[{name}]'")
    os.environ["KERAS_BACKEND"] = name
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    return name

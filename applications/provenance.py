"""What a result must say about where it comes from."""

import datetime
import importlib.metadata
import os
import platform
import subprocess

import keras


def provenance():
    """Returns the date, commit, device and versions of a run as a dictionary fit for JSON."""
    packages = [
        "keras",
        "keras-laurel",
        "numpy",
        {"jax": "jaxlib"}.get(keras.backend.backend(), keras.backend.backend()),
    ]
    commit = _git("rev-parse", "HEAD")
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": commit,
        "dirty": bool(_git("status", "--porcelain")) if commit else None,
        "backend": keras.backend.backend(),
        "precision": keras.config.dtype_policy().name,
        "device": device(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "versions": {package: importlib.metadata.version(package) for package in packages},
    }


def device():
    """Returns the name of the accelerator that Keras computes on, or of the processor."""
    backend = keras.backend.backend()
    name = None
    if backend == "jax":
        import jax

        name = jax.devices()[0].device_kind
    elif backend == "torch":
        import torch

        name = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    elif backend == "tensorflow":
        import tensorflow as tf

        gpus = tf.config.list_physical_devices("GPU")
        name = tf.config.experimental.get_device_details(gpus[0]).get("device_name") if gpus else None
    return name if name and name != "cpu" else f"CPU ({platform.machine()})"


def _git(*arguments):
    folder = os.path.dirname(os.path.abspath(__file__))
    result = subprocess.run(["git", "-C", folder, *arguments], capture_output=True, text=True, check=False)
    return result.stdout.strip() if result.returncode == 0 else None

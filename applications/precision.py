"""The dtype policy of a run."""

import contextlib

import keras


@contextlib.contextmanager
def precision(config):
    """Sets the dtype policy of `config`, and afterwards the one before it again; gives its name."""
    before = keras.config.dtype_policy()
    policy = default_precision() if config.precision == "auto" else config.precision
    keras.config.set_dtype_policy(policy)
    try:
        yield policy
    finally:
        keras.config.set_dtype_policy(before)


def default_precision():
    """Returns `"mixed_bfloat16"` on a TPU or a GPU that computes in it (capability 8.0 or later), else `"float32"`."""
    backend = keras.backend.backend()
    capability = 0.0
    if backend == "jax":
        import jax

        device = jax.devices()[0]
        capability = 9.0 if device.platform == "tpu" else float(getattr(device, "compute_capability", 0))
    elif backend == "torch":
        import torch

        capability = float(torch.cuda.is_available() and torch.cuda.get_device_capability()[0])
    elif backend == "tensorflow":
        import tensorflow as tf

        gpus = tf.config.list_physical_devices("GPU")
        if tf.config.list_logical_devices("TPU"):
            capability = 9.0
        elif gpus:
            capability = float(tf.config.experimental.get_device_details(gpus[0]).get("compute_capability", [0])[0])
    return "mixed_bfloat16" if capability >= 8 else "float32"

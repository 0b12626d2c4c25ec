"""The switch `--distribution` of the recipes, and what their processes do together."""

import contextlib
import json
from typing import Any

import keras
import numpy as np

from applications.errors import UserError
from keras_laurel.distribution import Distribution, distribute

ALONE = Distribution()  # one process, one device


def distributed(kind, layout_map):
    """Returns the `keras_laurel.distribution.Distribution` of `--distribution`; to be called before anything is built.

    Args:
        kind: `"none"`, `"data"` or such as `"model:2x4"`.
        layout_map: See `distribute`.

    Raises:
        UserError: If the backend or the devices have no such kind.
    """
    with refusals():
        return distribute(kind, layout_map=layout_map)


@contextlib.contextmanager
def refusals():
    """Turns what a distribution refuses into a `UserError`."""
    try:
        yield
    except ValueError as error:
        raise UserError(str(error)) from error


@contextlib.contextmanager
def chief_first(distribution):
    """Lets the other processes wait until the chief has been through, who makes files that they then read.

    Where the chief meets an error, the others come through to meet it too, instead of waiting for ever.
    """
    if not distribution.is_chief:
        distribution.barrier()
    try:
        yield
    finally:
        if distribution.is_chief:
            distribution.barrier()


@contextlib.contextmanager
def undistributed():
    """Keeps `keras.distribution` from dividing what is made inside: a new model, or the prompts of `generate`."""
    found = keras.distribution.distribution()
    keras.distribution.set_distribution(None)
    try:
        yield
    finally:
        keras.distribution.set_distribution(found)


def gathered(distribution, value):
    """Returns the list of what each process gives as `value`, in all of them.

    Args:
        distribution: A `Distribution`.
        value: Anything fit for JSON.
    """
    if distribution.num_processes == 1:
        return [value]
    text = np.frombuffer(json.dumps(value).encode(), "uint8")
    sizes = [int(size) for size in _all_gathered(np.array(len(text), "int32"))]
    texts = _all_gathered(np.pad(text, (0, max(sizes) - len(text))))
    return [json.loads(text[:size].tobytes()) for text, size in zip(texts, sizes)]


def whole_array(variable):
    """Returns the value of a Keras variable as a NumPy array; where processes have pieces of it, all must call this."""
    value: Any = variable.value
    if keras.backend.backend() == "jax" and not (value.is_fully_addressable or value.is_fully_replicated):
        from jax.experimental import multihost_utils

        return np.asarray(multihost_utils.process_allgather(value, tiled=True))
    if keras.backend.backend() == "tensorflow":  # whose variables may be one for each device
        import tensorflow as tf

        value = tf.convert_to_tensor(value)
    return keras.ops.convert_to_numpy(value)


def _all_gathered(array) -> Any:
    """Returns the arrays of all processes, of one shape, stacked."""
    if keras.backend.backend() == "jax":
        from jax.experimental import multihost_utils

        return np.asarray(multihost_utils.process_allgather(array))
    import torch
    from torch import distributed

    device = torch.device("cuda", torch.cuda.current_device()) if distributed.get_backend() == "nccl" else "cpu"
    tensor = torch.tensor(array, device=device)
    tensors = [torch.empty_like(tensor) for _ in range(distributed.get_world_size())]
    distributed.all_gather(tensors, tensor)
    return np.stack([tensor.cpu().numpy() for tensor in tensors])

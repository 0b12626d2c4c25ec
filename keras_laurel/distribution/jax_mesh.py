"""The engine of JAX: `keras.distribution` over a mesh of devices."""

import contextlib
import math
import os
import re
from typing import Any

import jax
import keras
import numpy as np
from jax.experimental import mesh_utils, multihost_utils

from keras_laurel.distribution.distribution import Distribution

AXES = ("batch", "model")
ENVIRONMENT = tuple(f"KERAS_DISTRIBUTION_{name}" for name in ("JOB_ADDRESSES", "NUM_PROCESSES", "PROCESS_ID"))
# Of all elements of the weights: how many a layout may leave undivided without saying so.
MAX_UNMENTIONED = 0.01


class JaxMesh(Distribution):
    """`keras.distribution.DataParallel` or `keras.distribution.ModelParallel` over all devices of all processes.

    Making it connects the processes, and sets the distribution for all that is made from then on;
    `keras.distribution.set_distribution(None)` ends that. Processes are found from what
    `keras.distribution.initialize` was called with before, else from the `KERAS_DISTRIBUTION_*` variables of the
    environment, else, on a TPU, from the TPU.

    Args:
        kind: `"data"` or `"model"`.
        mesh: See `distribute`.
        layout_map: See `distribute`.

    Raises:
        ValueError: See `distribute`; or if devices were used before the processes could be connected.
    """

    def __init__(self, kind, mesh: Any = None, layout_map: Any = None):
        if kind == "model":
            _check_arguments(mesh, layout_map)
        _connect_processes()
        if kind == "model":
            devices = jax.devices()
            if math.prod(mesh) != len(devices):
                raise ValueError(f"Expected a mesh of the {len(devices)} devices that there are. Received: mesh={mesh}")
            # In an order that puts neighbours of the mesh on neighbouring chips.
            devices = mesh_utils.create_device_mesh(mesh, devices, allow_split_physical_axes=True)
            self._layout_map = layout_map(keras.distribution.DeviceMesh(mesh, AXES, devices))
            self.keras_distribution = _ModelParallel(layout_map=self._layout_map, auto_shard_dataset=False)
        else:
            self._layout_map = None
            self.keras_distribution = keras.distribution.DataParallel(auto_shard_dataset=False)
        device_mesh = self.keras_distribution.device_mesh
        owners = np.vectorize(lambda device: device.process_index)(device_mesh.backend_mesh.devices)
        super().__init__(
            kind,
            num_replicas=self.keras_distribution.num_model_replicas,
            num_processes=jax.process_count(),
            process=jax.process_index(),
            data_shard=_data_shard(owners.reshape(len(owners), -1).tolist(), jax.process_index()),
            num_devices=device_mesh.devices.size,
            mesh=dict(zip(device_mesh.axis_names, device_mesh.shape)),
        )
        keras.distribution.set_distribution(self.keras_distribution)

    def scope(self):
        return self.keras_distribution.scope()

    def prepare(self, model):
        super().prepare(model)
        for weight in model.weights:
            layout = self.keras_distribution.get_variable_layout(weight).backend_layout
            if not weight.value.sharding.is_equivalent_to(layout, len(weight.shape)):
                raise ValueError(
                    "Expected a model that was made after `distribute`, with all its weights on the mesh. "
                    f"Received: weight {weight.path!r} on {weight.value.sharding}"
                )
        if self._layout_map is not None:
            _check_layout(self._layout_map, model.weights)

    @contextlib.contextmanager
    def local(self):
        # Saving makes an optimizer, to know which attributes it has: on the mesh, it would wait for all processes.
        keras.distribution.set_distribution(None)
        try:
            yield
        finally:
            keras.distribution.set_distribution(self.keras_distribution)

    def barrier(self):
        if self.num_processes > 1:
            multihost_utils.sync_global_devices("keras_laurel")


class _ModelParallel(keras.distribution.ModelParallel):
    """Refuses a weight that its layout does not fit when the weight is made, and says which: JAX does not."""

    def get_variable_layout(self, variable):
        layout = super().get_variable_layout(variable)
        sizes = dict(zip(self.device_mesh.axis_names, self.device_mesh.shape))
        if len(layout.axes) > len(variable.shape):
            raise ValueError(
                f"Expected a layout of at most {len(variable.shape)} dimensions for the weight {variable.path!r}. "
                f"Received: axes={layout.axes}"
            )
        for dimension, (size, axis) in enumerate(zip(variable.shape, layout.axes)):
            if axis is not None and size % sizes[axis]:
                raise ValueError(
                    f"Expected dimension {dimension} of the weight {variable.path!r} to be a multiple of the mesh's "
                    f"axis {axis!r}, which has {sizes[axis]} devices. Received: shape={tuple(variable.shape)}"
                )
        return layout


def _check_arguments(mesh, layout_map):
    if not (
        isinstance(mesh, (tuple, list)) and len(mesh) == 2 and all(isinstance(size, int) and size > 0 for size in mesh)
    ):
        raise ValueError(
            "Expected a pair of positive integers (data, model) as the mesh, as in kind='model:2x4'. "
            f"Received: mesh={mesh!r}"
        )
    if not callable(layout_map):
        raise ValueError(
            "Expected a function that makes the layout map of the model from a device mesh, such as "
            "`keras_laurel.applications.LaurelDecoderBackbone.get_layout_map` or "
            f"`keras_laurel.applications.laurel_resnet50_layout_map`. Received: layout_map={layout_map!r}"
        )


def _connect_processes():
    if jax.distributed.is_initialized():
        return
    given = [name for name in ENVIRONMENT if name in os.environ]
    failure = None
    config: Any = jax.config  # in which JAX puts the TPU by itself where there is one
    if given or "tpu" in (config.jax_platforms or ""):
        # On CPUs, a program that waits for other processes holds the threads that its successor is compiled with.
        config.update("jax_cpu_enable_async_dispatch", False)
        try:
            keras.distribution.initialize()
        except (RuntimeError, ValueError) as error:  # also that of a single TPU machine, which needs none of it
            failure = error
    if (failure and given) or (jax.process_count() > 1 and not jax.distributed.is_initialized()):
        raise ValueError(
            "The processes could not be connected. Call `distribute` before anything uses a device, with "
            f"{', '.join(ENVIRONMENT)} in the environment of each process, or call "
            f"`keras.distribution.initialize(...)` first. Received: {given or 'no such variables'}; {failure}"
        ) from failure


def _data_shard(rows, process):
    """Returns which part of a batch the devices of a process hold, and of how many parts.

    Not `data_shard_id` of Keras, which takes the devices of a process for neighbours in the mesh: on a TPU pod a row
    of the mesh may run through several processes.

    Args:
        rows: The process of each device, a list for each replica.
        process: Index of the process.
    """
    owners = sorted({owner for row in rows for owner in row})
    parts = [tuple(i for i, row in enumerate(rows) if owner in row) for owner in owners]
    distinct = sorted(set(parts))
    if any(len(part) * len(distinct) != len(rows) for part in parts):
        raise ValueError(
            f"Expected a mesh whose {len(rows)} replicas are spread evenly over the {len(owners)} processes. "
            f"Received: replicas of each process={dict(zip(owners, parts))}"
        )
    return distinct.index(parts[owners.index(process)]), len(distinct)


def _check_layout(layout_map, weights):
    sizes = {weight.path: math.prod(weight.shape) for weight in weights if len(weight.shape) > 1}
    replicated = {path: size for path, size in sizes.items() if layout_map[path] is None}
    if sum(replicated.values()) > MAX_UNMENTIONED * sum(math.prod(weight.shape) for weight in weights):
        unused = [key for key in layout_map if not any(re.fullmatch(key, weight.path) for weight in weights)]
        raise ValueError(
            "Expected a layout map with a key for each large weight, whose layout may be () for a weight that is "
            f"meant to be on every device. Received: no key for {len(replicated)} weights, the largest of them "
            f"{max(replicated, key=lambda path: replicated[path])!r}; keys that match no weight: {unused}"
        )

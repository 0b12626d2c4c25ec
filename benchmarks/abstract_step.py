"""Steps of training and of inference, compiled for TPUs or GPUs that are not there, from shapes alone."""

import contextlib
import importlib.util
import math
import os
import time
from unittest import mock

import jax
import keras

from applications.errors import UserError
from benchmarks.collectives import collectives

_WITHOUT_CHIPS = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}
_HOPPER = """
gpu_device_info {{
  threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: 2048
  shared_memory_per_block: 49152 shared_memory_per_core: 233472 shared_memory_per_block_optin: 232448
  core_count: 132 fpus_per_core: 128 clock_rate_ghz: 1.98
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
  memory_bandwidth: {bandwidth} l2_cache_size: {cache} device_memory_size: {memory}
  cuda_compute_capability {{ major: 9 }}
}}
platform_name: "CUDA" dnn_version_info {{ major: 9 minor: 19 }} device_description_str: "{name}"
"""
# What XLA asks a GPU, in the text form of its `GpuTargetConfigProto`.
GPUS = {
    "h100": _HOPPER.format(name="NVIDIA H100", bandwidth=3_350 * 10**9, cache=50 * 2**20, memory=80 * 10**9),
    "h200": _HOPPER.format(name="NVIDIA H200", bandwidth=4_800 * 10**9, cache=60 * 2**20, memory=141 * 10**9),
}


def tpus(topology):
    """Returns the chips of a TPU topology, such as `"v6e:4x4"`, as devices that one can compile for.

    Raises:
        UserError: If `libtpu` is not installed or does not know the topology.
    """
    if importlib.util.find_spec("libtpu") is None and "TPU_LIBRARY_PATH" not in os.environ:
        raise UserError("the TPU compiler is not installed; try: pip install 'keras-laurel[tpu-compile]'")
    from jax.experimental import topologies

    # Else libtpu asks the metadata server of a TPU machine, and lets no second process near its chips.
    for key, value in _WITHOUT_CHIPS.items():
        os.environ.setdefault(key, value)
    try:
        return topologies.get_topology_desc(topology, "tpu").devices
    except jax.errors.JaxRuntimeError as error:
        raise UserError(f"no TPU compiler for {topology!r}: {str(error).splitlines()[0]}") from None


def gpu(name):
    """Returns a GPU, a key of `GPUS`, as a list of the device that one can compile for.

    Raises:
        UserError: If JAX's plugin for NVIDIA's GPUs is not installed.
    """
    from jax.experimental import topologies

    try:
        return topologies.get_topology_desc("", "cuda", target_config=GPUS[name], topology="1x1x1").devices
    except NotImplementedError:
        raise UserError("the compiler for GPUs is not installed; try: pip install 'jax[cuda13]'") from None


@contextlib.contextmanager
def pretend(devices):
    """Lets Keras take `devices` for those of this machine; weights that are made meanwhile have no values."""
    here = jax.devices

    def initialize(variable, initializer):
        variable._initialize_layout()
        variable._value, variable._initializer = None, initializer  # as in a stateless scope

    def assign(variable, value):
        variable._value = value  # a counter or a rate: small, and not to be moved to a device that is not there

    with (
        mock.patch.object(jax, "devices", lambda backend=None: here(backend) if backend == "cpu" else list(devices)),
        mock.patch.multiple(keras.Variable, _initialize_with_initializer=initialize, _direct_assign=assign),
    ):
        yield


def distribution(devices, mesh=None, layout_map=None):
    """Returns Keras's distribution over `devices`; call it within `pretend(devices)`.

    Args:
        devices: List of devices.
        mesh: Pair of the sizes of the data and the model axis, or `None` for data parallelism.
        layout_map: Function of a `keras.distribution.DeviceMesh` that returns the layout map, with a mesh.
    """
    names = keras.distribution.list_devices()
    if mesh is None:
        return keras.distribution.DataParallel(keras.distribution.DeviceMesh((len(devices),), ["batch"], names))
    assert layout_map is not None
    device_mesh = keras.distribution.DeviceMesh(mesh, ["batch", "model"], names)
    return keras.distribution.ModelParallel(layout_map=layout_map(device_mesh), batch_dim_name="batch")


def train(model, batch, spread):
    """Lowers the training step that `model.fit` would run.

    Args:
        model: A compiled model.
        batch: Pair of inputs and targets as `jax.ShapeDtypeStruct`, of all chips together.
        spread: Keras's distribution, in whose scope this is called.

    Returns:
        The `jax.stages.Lowered` step.
    """
    model._symbolic_build(data_batch=(*batch, None))  # as `fit` begins: metrics, and the optimizer's state
    state = _abstract(
        (
            model.trainable_variables,
            model.non_trainable_variables,
            model.optimizer.variables,
            model.metrics_variables,
        ),
        spread,
    )
    shardings = jax.tree.map(lambda leaf: leaf.sharding, state)
    # As `JAXTrainer.make_train_function` does.
    step = jax.jit(model.train_step, donate_argnums=0, out_shardings=(None, shardings))
    return step.lower(state, (*_divided(batch, spread), None))


def prefill(model, batch, spread):
    """Lowers the first step of generating with a `LaurelCausalLM`: whole prompts, and the cache that they leave.

    Args and returns: See `train`; of the batch the token ids are used.
    """
    token_ids = batch[0]["token_ids"]

    def step(token_ids):
        hidden_states, cache = model._build_cache(token_ids)
        return model.backbone.token_embedding(hidden_states[:, -1:], reverse=True), cache

    return _inference(model, step, spread).lower(_abstract(model.variables, spread), _divided(token_ids, spread))


def decode(model, batch, spread):
    """Lowers a later step of generating with a `LaurelCausalLM`: one token of each sequence, by the cache.

    Args and returns: See `train`; of the batch the shape of the token ids is used, whose length is the cache's.
    """
    batch_size, length = batch[0]["token_ids"].shape
    last = jax.ShapeDtypeStruct((batch_size, 1), "int32")
    blocks = model.backbone.transformer_layers
    kept = jax.eval_shape(lambda: [block.mixer.empty_cache(batch_size, length) for block in blocks])

    def step(last, cache, index):
        logits, _, cache = model.call_with_cache(last, cache, index)
        return logits, cache

    arguments = (_divided(last, spread), _divided(kept, spread), jax.ShapeDtypeStruct((), "int32"))
    return _inference(model, step, spread, donate=(2,)).lower(_abstract(model.variables, spread), *arguments)


def _inference(model, step, spread, donate=()):
    """Returns `step` as a compiled function of the values of the model's variables and its own arguments."""

    def with_values(values, *arguments):
        with keras.StatelessScope(state_mapping=list(zip(model.variables, values))):
            return step(*arguments)

    return jax.jit(with_values, donate_argnums=donate)


def _abstract(variables, spread):
    """Returns the shapes of variables, laid out as `spread` has it."""

    def shape(variable):
        layout = spread.get_variable_layout(variable)
        return jax.ShapeDtypeStruct(variable.shape, variable.dtype, sharding=layout.backend_layout)

    return jax.tree.map(shape, variables)


def _divided(data, spread):
    """Returns shapes of data, divided as `spread` has it."""

    def shape(leaf):
        sharding = spread.get_data_layout(leaf.shape).backend_layout
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    return jax.tree.map(shape, data)


def measure(build, lower, batch, devices, mesh=None, layout_map=None):
    """Compiles a step of a model, and returns what the compiler says of it.

    Args:
        build: Function that returns a compiled model.
        lower: `train`, `prefill` or `decode`.
        batch: Pair of inputs and targets as `jax.ShapeDtypeStruct`, of all chips together.
        devices: List of devices.
        mesh: See `distribution`.
        layout_map: See `distribution`.

    Returns:
        Dictionary of `weights` and, for one chip and one step, `memory` in bytes, by what it holds, `flops`,
        `bytes_accessed`, `collectives` (see `benchmarks.collectives`); and `compile_seconds`.
    """
    with pretend(devices):
        spread = distribution(devices, mesh, layout_map)
        with spread.scope():
            model = build()
            lowered = lower(model, batch, spread)
        start = time.perf_counter()
        compiled = lowered.compile()
        seconds = time.perf_counter() - start
    memory, cost = compiled.memory_analysis(), compiled.cost_analysis()
    assert memory is not None  # which other compilers may not know
    assert cost is not None
    return {
        "weights": sum(math.prod(weight.shape) for weight in model.trainable_weights),
        "compile_seconds": round(seconds, 1),
        "memory": {
            "arguments": memory.argument_size_in_bytes,
            "outputs": memory.output_size_in_bytes,
            "aliased": memory.alias_size_in_bytes,
            "temporaries": memory.temp_size_in_bytes,
        },
        "flops": cost["flops"],
        "bytes_accessed": cost["bytes accessed"],
        "collectives": collectives(compiled.as_text(), len(devices)),
    }

"""One join alone, as a subject of the benchmarks."""

import functools
import math

import keras
import numpy as np
from keras import ops

import keras_laurel


def needs(name, shape, rank, num_activations, part):
    """Returns what a join must do: a dictionary of the `bytes` that it moves and the `flops` of its matmuls.

    Args:
        name: Word for `keras_laurel.residual`.
        shape: Tuple of sizes, of each tensor.
        rank: See `keras_laurel.residual`.
        num_activations: See `keras_laurel.residual`.
        part: `"forward"`, or `"both"` for the gradients too. `benchmarks.join_cost` says what is counted.
    """
    words = name.split("+")
    num_states = num_activations if "pa" in words else 1
    tensors = num_states + 2
    flops = 4 * math.prod(shape) * rank * num_states if "lr" in words else 0
    if part == "both":
        flops *= 3
        if name != "add":
            tensors += 1 + 2 * num_states + (2 if "rw" in words else 0)
    width = 4 if keras.config.dtype_policy().compute_dtype == "float32" else 2
    return {"bytes": tensors * math.prod(shape) * width, "flops": flops}


def rates(mode, shape, calls=1):
    """Returns the steps that measure the rates, by kind, with what each call does: see `needs` and `steps`."""
    dim, size = shape[-1], math.prod(shape)
    x, kernel = _tensor(shape, 0), _tensor((dim, dim), 1)
    width = 4 if keras.config.dtype_policy().compute_dtype == "float32" else 2
    return {
        "copy": (_compiled(lambda x: x + 1, mode, calls, x), {"bytes": 2 * size * width, "flops": 0}),
        "matmul": (_compiled(ops.matmul, mode, calls, x, kernel), {"bytes": 0, "flops": 2 * size * dim}),
    }


def steps(name, mode, shape, rank, num_activations, calls=1):
    """Returns functions without arguments: one computes a join `calls` times, the other its gradients too."""
    keras.utils.set_random_seed(0)
    join = keras_laurel.residual(name, rank=rank, num_activations=num_activations)
    tensors = [_tensor(shape, seed) for seed in range(num_activations + 1 if "pa" in name.split("+") else 2)]
    dy = _tensor(shape, 9)
    join.build([shape] * len(tensors))
    rng = np.random.default_rng(0)
    for weight in join.trainable_variables:  # zeros would be no less work, but might be found out
        weight.assign(rng.normal(size=weight.shape) * 0.1)
    backend = keras.backend.backend()
    if backend == "jax":
        return _jax(join, tensors, dy, calls)
    return (_tensorflow if backend == "tensorflow" else _torch)(join, tensors, dy, mode, calls)


def _jax(join, tensors, dy, calls):
    import jax

    weights = [weight.value for weight in join.trainable_variables]

    def forward(weights, tensors):
        return join.stateless_call(weights, [], tensors, training=False)[0]

    def both(weights, tensors, dy):
        y, pull = jax.vjp(
            lambda *given: join.stateless_call(given[0], [], given[1], training=True)[0], weights, tensors
        )
        return y, pull(dy)

    return _waiting(calls, jax.jit(forward), weights, tensors), _waiting(calls, jax.jit(both), weights, tensors, dy)


def _tensorflow(join, tensors, dy, mode, calls):
    import tensorflow as tf

    weights = [weight.value for weight in join.trainable_variables]

    def both(tensors, dy):
        with tf.GradientTape() as tape:
            tape.watch(tensors)
            y = join(tensors, training=True)
        return y, tape.gradient(y, [tensors, weights], dy)

    def compiled(function):
        return tf.function(function, jit_compile=mode == "xla")

    forward = compiled(lambda tensors: join(tensors, training=False))
    return _waiting(calls, forward, tensors), _waiting(calls, compiled(both), tensors, dy)


def _torch(join, tensors, dy, mode, calls):
    import torch

    weights = [weight.value for weight in join.trainable_variables]
    leaves = [tensor.detach().clone().requires_grad_() for tensor in tensors]

    def call(training, *tensors):
        return join(list(tensors), training=training)

    call = torch.compile(call) if mode == "compile" else call

    def forward():
        with torch.no_grad():
            return call(False, *tensors)

    def both():
        y = call(True, *leaves)
        return torch.autograd.grad(y, [*leaves, *weights], dy)

    return _waiting(calls, forward), _waiting(calls, both)


def _compiled(function, mode, calls, *tensors):
    backend = keras.backend.backend()
    if backend == "jax":
        import jax

        function = jax.jit(function)
    elif backend == "tensorflow":
        import tensorflow as tf

        function = tf.function(function, jit_compile=mode == "xla")
    return _waiting(calls, function, *tensors)


def _waiting(calls, function, *arguments):
    """Returns a function without arguments that calls `function` so often and returns when the device has ended."""
    backend = keras.backend.backend()

    def step():
        for _ in range(calls):
            result = function(*arguments)
        if backend == "jax":
            import jax

            jax.block_until_ready(result)
        elif backend == "tensorflow":
            import tensorflow as tf

            tf.test.experimental.sync_devices()
        else:
            import torch

            if torch.cuda.is_available():
                torch.cuda.synchronize()

    return step


def _tensor(shape, seed):
    return _made(tuple(shape), seed, keras.config.dtype_policy().compute_dtype)


@functools.lru_cache
def _made(shape, seed, dtype):
    return ops.convert_to_tensor(np.random.default_rng(seed).standard_normal(shape, "float32"), dtype)

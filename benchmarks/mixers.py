"""What `benchmarks.mixers_speed` times."""

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_laurel.mixers import CausalAttention, GatedLinearAttention, Hyena, LinearAttention, Mamba, MultiHeadHyena
from keras_laurel.mixers.linear_attention import causal_linear_attention
from keras_laurel.mixers.long_convolution import long_convolution
from keras_laurel.mixers.selective_scan import selective_scan

NUM_STATES = 4
HEAD_WIDTH = 16


class Operation(keras.layers.Layer):
    """Calls `function` with operands that are its weights, whatever its input.

    Args:
        function: Function of tensors to a tensor.
        operands: List of arrays.
    """

    def __init__(self, function, operands):
        super().__init__()
        self.function = function
        self.operands = [self.add_weight(shape=array.shape, autocast=False) for array in operands]
        for weight, array in zip(self.operands, operands):
            weight.assign(array)

    def call(self, inputs):
        return self.function(*(ops.convert_to_tensor(weight) for weight in self.operands))

    def compute_output_shape(self, input_shape):
        return (None, *self.operands[0].shape[1:])


def groups(length, dim, batch_size):
    """Returns the groups of training steps: dictionary of names to dictionaries of names to functions."""
    rng = np.random.default_rng(0)

    def random(*shape):
        return rng.normal(size=(batch_size, *shape)).astype("float32")

    x, delta = random(length, 2 * dim), np.abs(random(length, 2 * dim)) / 10
    rates = -np.tile(np.arange(1.0, 1 + NUM_STATES, dtype="float32"), (2 * dim, 1))
    scan = [x, delta, rates, random(length, NUM_STATES), random(length, NUM_STATES)]
    heads = [random(dim // HEAD_WIDTH, length, HEAD_WIDTH) for _ in range(3)]
    gates = -np.abs(random(dim // HEAD_WIDTH, length, HEAD_WIDTH)) / 20
    layers = {
        "attention": CausalAttention(dim // HEAD_WIDTH),
        "attention, window of 33": CausalAttention(dim // HEAD_WIDTH, window=33),
        "linear attention": LinearAttention(dim // HEAD_WIDTH),
        "gated linear attention": GatedLinearAttention(dim // HEAD_WIDTH),
        "mamba": Mamba(NUM_STATES),
        "hyena": Hyena(length),
        "multi-head hyena": MultiHeadHyena(dim // HEAD_WIDTH, length),
    }
    signals = [random(2 * dim, length), rng.normal(size=(2 * dim, length)).astype("float32")]
    inputs = random(length, dim)
    return {
        "selective scan": {
            "keras.ops.associative_scan": _step(Operation(_keras_scan, scan), x, x),
            "selective_scan": _step(Operation(selective_scan, scan), x, x),
        },
        "linear attention": {
            "keras.ops.dot_product_attention": _step(Operation(_attention, heads), heads[0], heads[0]),
            "causal_linear_attention": _step(Operation(causal_linear_attention, heads), heads[0], heads[0]),
            "causal_linear_attention, gated": _step(
                Operation(causal_linear_attention, [*heads, gates]), heads[0], heads[0]
            ),
        },
        "long convolution": {
            "the backend's own transforms": _step(Operation(_native_convolution, signals), signals[0], signals[0]),
            "long_convolution": _step(Operation(long_convolution, signals), signals[0], signals[0]),
        },
        "layers": {name: _step(layer, inputs, inputs) for name, layer in layers.items()},
    }


def _step(layer, x, target):
    inputs = keras.Input(x.shape[1:])
    model = keras.Model(inputs, layer(inputs))
    model.compile(keras.optimizers.SGD(1e-6), "mse")
    return lambda: float(model.train_on_batch(x, target))


def _native_convolution(x, kernel):
    size: Any = 2 * x.shape[-1]
    fft: Any
    backend = keras.backend.backend()
    if backend == "jax":
        from jax.numpy import fft
    elif backend == "torch":
        from torch import fft
    else:
        from tensorflow import signal as fft

        size = [size]
    return fft.irfft(fft.rfft(x, size) * fft.rfft(kernel, size), size)[..., : x.shape[-1]]


def _attention(query, key, value):
    query, key, value = (ops.swapaxes(tensor, 1, 2) for tensor in (query, key, value))
    return ops.swapaxes(ops.dot_product_attention(query, key, value, is_causal=True), 1, 2)


def _keras_scan(x, delta, log_decay, write, read):
    def after(first, second):
        return first[0] * second[0], second[0] * first[1] + second[1]

    decay = ops.exp(ops.expand_dims(delta, 2) * ops.transpose(log_decay))
    added = ops.expand_dims(delta * x, 2) * ops.expand_dims(write, 3)
    states = ops.associative_scan(after, (decay, added), axis=1)[1]
    return ops.sum(ops.expand_dims(read, 3) * ops.reshape(states, added.shape), axis=2)  # TensorFlow forgets the shape

"""The Mamba block: a selective state space between two projections."""

import math

import keras
import numpy as np
from keras import ops

from keras_laurel.layers.quantization import dtype_with_quantized_sublayers
from keras_laurel.mixers.causal_conv import CausalConv
from keras_laurel.mixers.heads import at_least_float32
from keras_laurel.mixers.last_layer import apply
from keras_laurel.mixers.padding import kept_positions
from keras_laurel.mixers.selective_scan import selective_scan


@keras.saving.register_keras_serializable(package="keras_laurel")
class InverseSoftplusLogUniform(keras.initializers.Initializer):
    """Draws the inverse softplus of numbers whose logarithms are uniform in `[log(minval), log(maxval)]`.

    Args:
        minval: Positive float.
        maxval: Float above `minval`.
        seed: Integer, or `None` for another draw each time.

    Example:
    >>> bias = keras_laurel.mixers.mamba.InverseSoftplusLogUniform(0.5, 0.5 + 1e-6)((1,))
    >>> round(float(ops.softplus(bias)[0]), 4)
    0.5
    """

    def __init__(self, minval=1e-3, maxval=1e-1, seed=None):
        self.minval = minval
        self.maxval = maxval
        self.uniform = keras.initializers.RandomUniform(math.log(minval), math.log(maxval), seed)
        self.seed = self.uniform.seed

    def __call__(self, shape, dtype=None, **kwargs):
        """Returns a tensor of `shape`; see `keras.initializers.Initializer`."""
        step = ops.exp(self.uniform(shape, dtype))
        return step + ops.log(-ops.expm1(-step))

    def get_config(self):
        return {"minval": self.minval, "maxval": self.maxval, "seed": self.uniform.get_config()["seed"]}


@keras.saving.register_keras_serializable(package="keras_laurel")
class Mamba(keras.layers.Layer):
    """Mixes positions by a recurrence whose step, input and output depend on the input, and channels on the way.

        u = silu(conv(x @ up))
        step, write, read = split(u @ selection)
        step = softplus(step @ delta + delta_bias)
        state[t] = exp(-exp(log_rate) * step[t]) * state[t - 1] + step[t] * u[t] * write[t]
        y = ((sum over states of read * state) + skip * u) * silu(x @ gate) @ output

    The kernels `up`, `gate`, `selection`, `delta` and `output` are `keras.layers.Dense` without bias, `conv` is a
    `CausalConv`. With `D = dim`, `E = expansion * D`, `S = num_states`, `k = num_taps` and `r = delta_rank` there are
    `3 * D * E + E * (k + 1) + 2 * E * (r + S) + E * (S + 2)` weights. While decoding, a layer keeps `E * S` floats of
    state and `E * (k - 1)` of the convolution, whatever the length. Steps, decays and states are in float32 or finer.

    Args:
        num_states: Positive integer, the states of a channel.
        expansion: Positive integer, the inner width over `dim`.
        num_taps: Positive integer, the positions that the convolution sums.
        delta_rank: Positive integer, the rank of the projection that makes the step. Defaults to `dim / 16`, rounded
            up.
        method: How the recurrence is computed: see `keras_laurel.mixers.selective_scan.selective_scan`.
        kernel_initializer: Initializer of `up`, `gate` and `selection`. Those of the other weights are the paper's:
            rates of 1 to `num_states`, steps from 0.001 to 0.1 and a skip of 1.
        output_initializer: Initializer of `output`. Defaults to `kernel_initializer`.
        **kwargs: Standard layer arguments, such as `name` and `dtype`.

    Call arguments:
        x: Float tensor of shape `(batch, length, dim)`.
        attention_mask: Boolean tensor `(batch, length)` or `(batch, 1, 1, length)`, false where a position is padding,
            which then leaves the state as it is, and is zero to the convolution. Not used with a cache.
        cache: Pair of the state and the convolution's last inputs before `x`, as `empty_cache` makes it.
        cache_index: Not used.
        num_kept: Integer scalar, how many positions of `x` the returned cache has taken up; by default all.
        project: Function that applies the last layer to its input; by default the layer's call.

    Returns:
        Tensor of the shape of `x`, in the compute dtype; with a cache, a pair of it and the next cache.

    Example:
    >>> layer = keras_laurel.mixers.Mamba(num_states=4)
    >>> tuple(layer(np.ones((1, 3, 8), "float32")).shape), layer.count_params(), layer.state_size(3)
    ((1, 3, 8), 720, 112)

    Reference:
        [Gu and Dao, 2023](https://arxiv.org/abs/2312.00752)
    """

    def __init__(
        self,
        num_states=16,
        expansion=2,
        num_taps=4,
        delta_rank=None,
        method=None,
        kernel_initializer="glorot_uniform",
        output_initializer=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.num_states = num_states
        self.expansion = expansion
        self.num_taps = num_taps
        self.delta_rank = delta_rank
        self.method = method
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.output_initializer = keras.initializers.get(output_initializer or kernel_initializer)
        self.supports_masking = True

    def build(self, input_shape):
        self.dim = dim = input_shape[-1]
        inner, rank = self.expansion * dim, self.delta_rank or math.ceil(dim / 16)

        def dense(name, inputs, units, initializer):
            layer = keras.layers.Dense(
                units, use_bias=False, kernel_initializer=initializer.clone(), name=name, dtype=self.dtype_policy
            )
            layer.build((*input_shape[:-1], inputs))
            return layer

        self.up = dense("up", dim, inner, self.kernel_initializer)
        self.gate = dense("gate", dim, inner, self.kernel_initializer)
        self.conv = CausalConv(self.num_taps, name="conv", dtype=self.dtype_policy)
        self.conv.build((*input_shape[:-1], inner))
        self.selection = dense("selection", inner, rank + 2 * self.num_states, self.kernel_initializer)
        self.delta = dense("delta", rank, inner, keras.initializers.RandomUniform(-(rank**-0.5), rank**-0.5))
        self.output_dense = dense("output", inner, dim, self.output_initializer)
        self.delta_bias = self.add_weight(
            shape=(inner,), initializer=InverseSoftplusLogUniform(), name="delta_bias", autocast=False
        )
        self.log_rate = self.add_weight(
            shape=(inner, self.num_states), initializer=_log_of_counting, name="log_rate", autocast=False
        )
        self.skip = self.add_weight(shape=(inner,), initializer="ones", name="skip", autocast=False)

    def empty_cache(self, batch_size, capacity):
        """Returns the cache before the first position, of one size for any `capacity`."""
        inner = self.expansion * self.dim
        dtype = keras.backend.result_type(self.compute_dtype, "float32")
        state = ops.zeros((batch_size, self.num_states, inner), dtype)
        return state, ops.zeros((batch_size, self.num_taps - 1, inner), self.compute_dtype)

    def call(self, x, attention_mask=None, cache=None, cache_index=None, num_kept=None, project=apply):
        u, gate = self.up(x), self.gate(x)
        kept, state, before = None, None, None
        if cache is not None:
            state, before = cache
            u, before = self.conv(u, before=before, num_kept=num_kept)
        else:
            if attention_mask is not None:
                kept = ops.expand_dims(kept_positions(attention_mask), 2)
                u = ops.where(kept, u, ops.zeros_like(u))
            u = self.conv(u)
        u = ops.silu(u)
        parameters = self.selection(u)
        delta = self.delta(parameters[..., : -2 * self.num_states])
        u, delta, parameters = at_least_float32(u, delta, parameters)
        delta = ops.softplus(delta + self.delta_bias)
        if kept is not None:
            delta = ops.where(kept, delta, 0.0)
        write, read = ops.split(parameters[..., -2 * self.num_states :], 2, axis=-1)
        y = selective_scan(u, delta, -ops.exp(self.log_rate), write, read, self.method, state, num_kept)
        if cache is not None:
            y, state = y
        y = ops.cast(y + self.skip * u, self.compute_dtype)
        y = project(self.output_dense, y * ops.silu(gate))
        return y if cache is None else (y, (state, before))

    def state_size(self, length):
        """Returns how many floats are kept of `length` positions for those that follow: the same for any length."""
        return self.skip.shape[0] * (self.num_states + self.num_taps - 1)

    def flops(self, length):
        """Returns the operations for a sequence, state by state; a multiplication and an addition count as two."""
        inner, rank = self.expansion * self.dim, self.delta_rank or math.ceil(self.dim / 16)
        projections = 6 * inner * self.dim + 2 * inner * (rank + 2 * self.num_states) + 2 * inner * rank
        return length * (projections + 2 * self.num_taps * inner + 6 * inner * self.num_states)

    def compute_output_shape(self, input_shape):
        return tuple(input_shape)

    def get_config(self):
        return {
            **super().get_config(),
            "num_states": self.num_states,
            "expansion": self.expansion,
            "num_taps": self.num_taps,
            "delta_rank": self.delta_rank,
            "method": self.method,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "output_initializer": keras.initializers.serialize(self.output_initializer),
            "dtype": dtype_with_quantized_sublayers(self),
        }


def _log_of_counting(shape, dtype=None, **_):
    return ops.convert_to_tensor(np.broadcast_to(np.log(np.arange(1, shape[1] + 1)), shape), dtype=dtype)

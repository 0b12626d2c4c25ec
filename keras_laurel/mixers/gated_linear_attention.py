"""Linear attention whose state forgets, channel by channel, as much as the input says."""

import keras
from keras import ops

from keras_laurel.layers.quantization import dtype_with_quantized_sublayers
from keras_laurel.mixers.heads import at_least_float32, head_projection, head_width, merge_projection
from keras_laurel.mixers.last_layer import apply
from keras_laurel.mixers.linear_attention import causal_linear_attention, continue_linear_attention
from keras_laurel.mixers.padding import kept_positions


@keras.saving.register_keras_serializable(package="keras_laurel")
class GatedLinearAttention(keras.layers.Layer):
    """Reads a state that decays by a gate of its own for each channel of the key.

        g[t] = log_sigmoid(x[t] @ gate_down @ gate_up + bias) / gate_divisor
        state[t] = diag(exp(g[t])) state[t - 1] + outer(k[t], v[t])
        y[t] = (rms_norm(q[t] @ state[t] / sqrt(head_dim)) * silu(x[t] @ output_gate)) @ attention_output

    `q`, `k` and `v` are projections without bias; the norm is over a head, with one gain for all heads. There are no
    positions but the order. With `D = dim`, `H = num_heads`, `d = head_dim` and `r = gate_rank`: `5 * D * H * d +
    r * (D + H * d) + H * d + d` weights. While decoding, a layer keeps `H * d * d` floats, whatever the length. Gates
    and state are in float32 or finer. A gate `g` below -5 counts as -5.

    Args:
        num_heads: Positive integer, the number of heads.
        head_dim: Positive integer, the width of a head. Defaults to `dim / num_heads`.
        gate_rank: Positive integer, the rank of the projection that makes the gate.
        gate_divisor: Positive float; the larger it is, the longer a new layer remembers.
        norm_epsilon: Positive float, the epsilon of the norm.
        kernel_initializer: Initializer of all kernels but the output's. Defaults to that of the authors, Glorot's
            uniform one times `2 ** -2.5`.
        output_initializer: Initializer of the output kernel. Defaults to `kernel_initializer`.
        **kwargs: Standard layer arguments, such as `name` and `dtype`.

    Call arguments:
        x: Float tensor of shape `(batch, length, dim)`.
        attention_mask: Boolean tensor `(batch, length)` or `(batch, 1, 1, length)`, false where a position is padding,
            which then leaves the state as it is. Not used with a cache.
        cache: Tuple of the state before `x`, as `empty_cache` makes it.
        cache_index: Not used.
        num_kept: Integer scalar, how many positions of `x` the returned cache has taken up; by default all.
        project: Function that applies the last layer to its input; by default the layer's call.

    Returns:
        Tensor of the shape of `x`, in the compute dtype; with a cache, a pair of it and the next cache.

    Raises:
        ValueError: On the first call if `num_heads` does not divide `dim` (and no `head_dim` is given).

    Example:
    >>> layer = keras_laurel.mixers.GatedLinearAttention(num_heads=2, gate_rank=1)
    >>> tuple(layer(np.ones((1, 3, 8), "float32")).shape), layer.count_params(), layer.state_size(3)
    ((1, 3, 8), 348, 32)

    Reference:
        [Yang et al., 2023](https://arxiv.org/abs/2312.06635)
    """

    def __init__(
        self,
        num_heads,
        head_dim=None,
        gate_rank=16,
        gate_divisor=16.0,
        norm_epsilon=1e-5,
        kernel_initializer=None,
        output_initializer=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.num_heads = num_heads
        self.head_dim = head_dim
        self.gate_rank = gate_rank
        self.gate_divisor = gate_divisor
        self.norm_epsilon = norm_epsilon
        if kernel_initializer is None:
            kernel_initializer = keras.initializers.VarianceScaling(2.0**-5, "fan_avg", "uniform")
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.output_initializer = keras.initializers.get(output_initializer or kernel_initializer)
        self.supports_masking = True

    def build(self, input_shape):
        self.dim = input_shape[-1]
        width = head_width(self, input_shape)
        self.query, self.key, self.value, self.output_gate = (
            head_projection(self, name, input_shape, width) for name in ("query", "key", "value", "output_gate")
        )
        self.gate_down = keras.layers.Dense(
            self.gate_rank,
            use_bias=False,
            kernel_initializer=self.kernel_initializer.clone(),
            name="gate_down",
            dtype=self.dtype_policy,
        )
        self.gate_down.build(input_shape)
        self.gate_up = head_projection(self, "gate_up", (*input_shape[:-1], self.gate_rank), width, use_bias=True)
        self.norm = keras.layers.RMSNormalization(epsilon=self.norm_epsilon, name="norm", dtype=self.dtype_policy)
        self.norm.build((input_shape[0], self.num_heads, input_shape[1], width))
        self.attention_output = merge_projection(self, input_shape, width)

    def empty_cache(self, batch_size, capacity):
        """Returns the cache before the first position, of one size for any `capacity`."""
        width = self.value.kernel.shape[-1]
        dtype = keras.backend.result_type(self.compute_dtype, "float32")
        return (ops.zeros((batch_size, self.num_heads, width, width), dtype),)

    def call(self, x, attention_mask=None, cache=None, cache_index=None, num_kept=None, project=apply):
        query, key, value, gate = at_least_float32(
            self.query(x), self.key(x), self.value(x), self.gate_up(self.gate_down(x))
        )
        log_decay = ops.log_sigmoid(gate) / self.gate_divisor
        if attention_mask is not None and cache is None:
            kept = ops.expand_dims(kept_positions(attention_mask), (1, 3))
            key, log_decay = ops.where(kept, key, 0.0), ops.where(kept, log_decay, 0.0)
        inputs = (query * query.shape[-1] ** -0.5, key, value, log_decay)
        y = causal_linear_attention(*inputs)
        if cache is not None:
            from_before, state = continue_linear_attention(cache[0], *inputs, num_kept=num_kept)
            y, cache = y + from_before, (state,)
        y = project(self.attention_output, self.norm(y) * ops.silu(self.output_gate(x)))
        return y if cache is None else (y, cache)

    def state_size(self, length):
        """Returns how many floats are kept of `length` positions for those that follow: the same for any length."""
        width = self.value.kernel.shape[-1]
        return self.num_heads * width * width

    def flops(self, length):
        """Returns the operations for a sequence, state by state; a multiplication and an addition count as two."""
        width = self.value.kernel.shape[-1]
        inner = self.num_heads * width
        gate = 2 * self.gate_rank * (self.dim + inner)
        return length * (10 * self.dim * inner + gate + 6 * inner * width)

    def compute_output_shape(self, input_shape):
        return tuple(input_shape)

    def get_config(self):
        return {
            **super().get_config(),
            "num_heads": self.num_heads,
            "head_dim": self.head_dim,
            "gate_rank": self.gate_rank,
            "gate_divisor": self.gate_divisor,
            "norm_epsilon": self.norm_epsilon,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "output_initializer": keras.initializers.serialize(self.output_initializer),
            "dtype": dtype_with_quantized_sublayers(self),
        }

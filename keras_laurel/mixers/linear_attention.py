"""Attention without a softmax, whose state does not grow with the length."""

import keras
from keras import ops

from keras_laurel.layers.quantization import dtype_with_quantized_sublayers
from keras_laurel.mixers.heads import at_least_float32, head_projection, head_width, merge_projection
from keras_laurel.mixers.last_layer import apply
from keras_laurel.mixers.padding import kept_positions
from keras_laurel.mixers.recurrence import linear_recurrence, sum_after, zero_after

CHUNK_SIZE = 32
# Half a chunk of the strongest decay, exp(-5 * 16), and its inverse are within the range of float32.
LEAST_LOG_DECAY = -5.0


def causal_linear_attention(query, key, value, log_decay=None, chunk_size=CHUNK_SIZE):
    """Reads a matrix-valued state that each position decays and adds to, all positions at once.

        state[t] = exp(log_decay[t]) * state[t - 1] + outer(key[t], value[t])
        y[t] = query[t] @ state[t]

    Within a chunk of positions this is a masked product, as in attention; from chunk to chunk goes the state. So the
    time is linear in the length, and all of it is in matrix products.

    Args:
        query: Float tensor `(batch, num_heads, length, width)`.
        key: Float tensor of the shape of `query`.
        value: Float tensor `(batch, num_heads, length, value_width)`.
        log_decay: Float tensor of the shape of `key`, from `LEAST_LOG_DECAY` (what is below counts as that) to 0, or
            `None` for no decay.
        chunk_size: Positive integer, the positions of a chunk; at most 32 with a decay.

    Returns:
        Tensor of the shape of `value`.

    Example:
    >>> from keras_laurel.mixers.linear_attention import causal_linear_attention
    >>> ones = np.ones((1, 1, 4, 1), "float32")
    >>> np.ravel(causal_linear_attention(ones, ones, ones)).tolist()
    [1.0, 2.0, 3.0, 4.0]
    >>> np.ravel(causal_linear_attention(ones, ones, ones, np.log(ones / 2))).tolist()
    [1.0, 1.5, 1.75, 1.875]
    """
    batch, num_heads, length, width = ops.shape(value)
    size = min(chunk_size, length) if isinstance(length, int) else chunk_size
    num_chunks = (length + size - 1) // size

    def chunks(x):
        x = ops.pad(x, ((0, 0), (0, 0), (0, num_chunks * size - length), (0, 0)))
        return ops.reshape(x, (batch * num_heads, num_chunks, size, x.shape[-1]))

    query, key, value = (chunks(x) for x in (query, key, value))
    if log_decay is not None:
        total = ops.cumsum(chunks(ops.maximum(log_decay, LEAST_LOG_DECAY)), axis=2)
        half = (size - 1) // 2
        middle, last = total[:, :, half : half + 1], total[:, :, -1:]
        # From the middle, as the two exponentials of opposite sign would leave the range of float32 from one end; and
        # two of them, as the gradient of a quotient divides by the square.
        query, key = query * ops.exp(total - middle), key * ops.exp(middle - total)
        from_middle, from_start, to_middle = (ops.swapaxes(ops.exp(x), -1, -2) for x in (last - middle, last, middle))
    keys = ops.swapaxes(key, -1, -2)
    scores = ops.matmul(query, keys)
    positions = ops.arange(0, size)
    # Not a product with zeros: what is masked may have overflowed.
    scores = ops.where(ops.expand_dims(positions, 1) >= positions, scores, 0.0)
    y = ops.matmul(scores, value)
    if value.shape[1] != 1:
        added = ops.matmul(keys, value)
        after = ops.cumsum(added, axis=1) if log_decay is None else linear_recurrence(from_start, from_middle * added)
        before = ops.pad(after[:, :-1], ((0, 0), (1, 0), (0, 0), (0, 0)))
        y = y + ops.matmul(query, before if log_decay is None else to_middle * before)
    return ops.reshape(y, (batch, num_heads, num_chunks * size, width))[:, :, :length]


def continue_linear_attention(state, query, key, value, log_decay=None, num_kept=None):
    """Returns what the state before the first position adds to `causal_linear_attention`, and the state after the last.

    Args:
        state: Float tensor `(batch, num_heads, width, value_width)`.
        query: See `causal_linear_attention`.
        key: See there.
        value: See there.
        log_decay: See there.
        num_kept: Integer scalar: the state after as many positions; by default after all.

    Returns:
        Tensor of the shape of `value`, and a state.
    """
    log_decay = ops.zeros_like(key) if log_decay is None else ops.maximum(log_decay, LEAST_LOG_DECAY)
    from_before = ops.matmul(query * ops.exp(ops.cumsum(log_decay, axis=2)), state)
    log_decay, key = zero_after(log_decay, 2, num_kept), zero_after(key, 2, num_kept)
    taken = ops.matmul(ops.swapaxes(key * ops.exp(sum_after(log_decay, 2)), -1, -2), value)
    kept = ops.exp(ops.sum(log_decay, 2, keepdims=True))
    return from_before, ops.swapaxes(kept, -1, -2) * state + taken


@keras.saving.register_keras_serializable(package="keras_laurel")
class LinearAttention(keras.layers.Layer):
    """Attention whose score of a query and a key is a product of features, not an exponential.

        y[t] = sum_{s <= t} f(q[t]) . g(k[s]) v[s] / (sum_{s <= t} f(q[t]) . g(k[s]) + epsilon)

    With the `"hadamard"` features of the MAD benchmark, `f` and `g` are each the product of two learned affine maps of
    a head's query or key, `(q @ w0 + b0) * (q @ w1 + b1)`, the same for all heads; nothing keeps them positive, so a
    denominator may come near zero. With `"elu"` both are `elu(q) + 1`, which is positive.

    There are no positions but the order. With `D = dim`, `H = num_heads` and `d = head_dim`: `4 * D * H * d` weights
    without bias, and `4 * (d * d + d)` of the Hadamard features. While decoding, a layer keeps `H * (d * d + d)`
    floats, whatever the length. Sums and the division are in float32 or finer.

    Args:
        num_heads: Positive integer, the number of heads.
        head_dim: Positive integer, the width of a head. Defaults to `dim / num_heads`.
        feature_map: `"hadamard"` or `"elu"`.
        epsilon: Float, what is added to the denominator.
        kernel_initializer: Initializer of the query, key, value and feature kernels.
        output_initializer: Initializer of the output kernel. Defaults to `kernel_initializer`.
        **kwargs: Standard layer arguments, such as `name` and `dtype`.

    Call arguments:
        x: Float tensor of shape `(batch, length, dim)`.
        attention_mask: Boolean tensor `(batch, length)` or `(batch, 1, 1, length)`, false where a position is padding,
            which then adds nothing to the state. Not used with a cache.
        cache: Tuple of the state before `x`, as `empty_cache` makes it.
        cache_index: Not used.
        num_kept: Integer scalar, how many positions of `x` the returned cache has taken up; by default all.
        project: Function that applies the last layer to its input; by default the layer's call.

    Returns:
        Tensor of the shape of `x`, in the compute dtype; with a cache, a pair of it and the next cache.

    Raises:
        ValueError: If `feature_map` is unknown, or on the first call if `num_heads` does not divide `dim` (and no
            `head_dim` is given).

    Example:
    >>> layer = keras_laurel.mixers.LinearAttention(num_heads=2)
    >>> tuple(layer(np.ones((1, 3, 8), "float32")).shape), layer.count_params(), layer.state_size(3)
    ((1, 3, 8), 336, 40)

    Reference:
        [Katharopoulos et al., 2020](https://arxiv.org/abs/2006.16236);
        [Poli et al., 2024](https://arxiv.org/abs/2403.17844) (the features)
    """

    def __init__(
        self,
        num_heads,
        head_dim=None,
        feature_map="hadamard",
        epsilon=1e-12,
        kernel_initializer="glorot_uniform",
        output_initializer=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if feature_map not in ("hadamard", "elu"):
            raise ValueError(f"Expected `feature_map` to be 'hadamard' or 'elu'. Received: feature_map={feature_map!r}")
        self.num_heads = num_heads
        self.head_dim = head_dim
        self.feature_map = feature_map
        self.epsilon = epsilon
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.output_initializer = keras.initializers.get(output_initializer or kernel_initializer)
        self.supports_masking = True

    def build(self, input_shape):
        self.dim = input_shape[-1]
        width = head_width(self, input_shape)
        self.query, self.key, self.value = (
            head_projection(self, name, input_shape, width) for name in ("query", "key", "value")
        )
        if self.feature_map == "hadamard":
            self.features = []
            for name in ("query_features_0", "query_features_1", "key_features_0", "key_features_1"):
                layer = keras.layers.Dense(
                    width, kernel_initializer=self.kernel_initializer.clone(), name=name, dtype=self.dtype_policy
                )
                layer.build((*input_shape[:-1], width))
                self.features.append(layer)
        self.attention_output = merge_projection(self, input_shape, width)

    def empty_cache(self, batch_size, capacity):
        """Returns the cache before the first position, of one size for any `capacity`."""
        width = self.value.kernel.shape[-1]
        dtype = keras.backend.result_type(self.compute_dtype, "float32")
        return (ops.zeros((batch_size, self.num_heads, width, width + 1), dtype),)

    def call(self, x, attention_mask=None, cache=None, cache_index=None, num_kept=None, project=apply):
        query, key, value = self.query(x), self.key(x), self.value(x)
        if self.feature_map == "hadamard":
            first, second, third, fourth = self.features
            query, key = first(query) * second(query), third(key) * fourth(key)
        else:
            query, key = ops.elu(query) + 1, ops.elu(key) + 1
        query, key, value = at_least_float32(query, key, value)
        if attention_mask is not None and cache is None:
            kept = ops.expand_dims(kept_positions(attention_mask), (1, 3))
            key = ops.where(kept, key, 0.0)
        # The denominator is the sum for a value of ones.
        value = ops.concatenate([value, ops.ones_like(value[..., :1])], axis=-1)
        sums = causal_linear_attention(query, key, value)
        if cache is not None:
            from_before, state = continue_linear_attention(cache[0], query, key, value, num_kept=num_kept)
            sums, cache = sums + from_before, (state,)
        y = sums[..., :-1] / (sums[..., -1:] + self.epsilon)
        y = project(self.attention_output, ops.cast(y, self.compute_dtype))
        return y if cache is None else (y, cache)

    def state_size(self, length):
        """Returns how many floats are kept of `length` positions for those that follow: the same for any length."""
        width = self.value.kernel.shape[-1]
        return self.num_heads * (width * width + width)

    def flops(self, length):
        """Returns the operations for a sequence, state by state; a multiplication and an addition count as two."""
        width = self.value.kernel.shape[-1]
        inner = self.num_heads * width
        features = 8 * inner * width if self.feature_map == "hadamard" else 0
        return length * (8 * self.dim * inner + features + 4 * inner * width + 4 * inner)

    def compute_output_shape(self, input_shape):
        return tuple(input_shape)

    def get_config(self):
        return {
            **super().get_config(),
            "num_heads": self.num_heads,
            "head_dim": self.head_dim,
            "feature_map": self.feature_map,
            "epsilon": self.epsilon,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "output_initializer": keras.initializers.serialize(self.output_initializer),
            "dtype": dtype_with_quantized_sublayers(self),
        }

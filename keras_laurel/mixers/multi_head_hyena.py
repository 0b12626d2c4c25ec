"""Multi-head Hyena: a long convolution of each head's outer products."""

import math

import keras
from keras import ops

from keras_laurel.layers.quantization import dtype_with_quantized_sublayers
from keras_laurel.mixers.heads import at_least_float32
from keras_laurel.mixers.hyena import ShortProjection, check_length, masked
from keras_laurel.mixers.implicit_filter import ImplicitFilter
from keras_laurel.mixers.last_layer import apply
from keras_laurel.mixers.long_convolution import convolution_rows, long_convolution


@keras.saving.register_keras_serializable(package="keras_laurel")
class MultiHeadHyena(keras.layers.Layer):
    """Keeps the outer products of keys and values, as linear attention does, but weighs the past by a long filter.

        query, key, value = split(conv(x @ projection + bias))              into heads of width d
        state[t] = sum_j filter[j] * outer(key[t - j], value[t - j]) + skip * outer(key[t], value[t])
        y[t] = concatenate over heads(query[t] @ state[t]) @ output + bias

    A head has one filter and one skip for its `d * d` products. Up to `4 * d * d` positions these are never made:
    `query[t] @ state[t]` is a sum of values, weighed by `filter[t - s] * dot(query[t], key[s])` as attention weighs by
    scores. Longer inputs go by Fourier transforms. Both are in float32 or finer. With `D = dim`, `k = num_taps`,
    `n = projection_tiles`, `H = num_heads` and `F` weights of the filter:
    `3 * D / n * (D + 1) + 3 * D * (k + 1) + F + H + D * (D + 1)`.

    Args:
        num_heads: Positive integer that divides `dim`.
        filter_length: Integer above one, the longest input.
        filter_order: Positive integer, the width of the network that makes the filters.
        num_taps: Positive integer, the positions that the short convolution sums.
        projection_tiles: As of `Hyena`. The code of the benchmark MAD has 4, and 8 heads, where its paper has 1 and 16.
        kernel_initializer: Initializer of `projection`; the filter's is its own.
        output_initializer: Initializer of `output`. Defaults to `kernel_initializer`.
        **kwargs: Standard layer arguments, such as `name` and `dtype`.

    Call arguments:
        x: Float tensor of shape `(batch, length, dim)`.
        attention_mask: As of `Hyena`.
        cache: Triple of keys, values and the short convolution's last inputs before `x`, as `empty_cache` makes it.
        cache_index, num_kept: As of `Hyena`.
        project: Function that applies the last layer to its input; by default the layer's call.

    Returns:
        Tensor of the shape of `x`, in the compute dtype; with a cache, a pair of it and the next cache.

    Raises:
        ValueError: If the input is longer than `filter_length`, or `num_heads` or `projection_tiles` does not divide.

    Example:
    >>> layer = keras_laurel.mixers.MultiHeadHyena(num_heads=2, filter_length=16)
    >>> tuple(layer(np.ones((1, 3, 8), "float32")).shape), layer.count_params(), layer.state_size(3)
    ((1, 3, 8), 460, 112)

    Reference:
        [Massaroli et al., 2023](https://arxiv.org/abs/2310.18780); [Poli et al., 2024](https://arxiv.org/abs/2403.17844)
    """

    def __init__(
        self,
        num_heads,
        filter_length,
        filter_order=2,
        num_taps=3,
        projection_tiles=1,
        kernel_initializer="glorot_uniform",
        output_initializer=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.num_heads = num_heads
        self.filter_length = filter_length
        self.filter_order = filter_order
        self.num_taps = num_taps
        self.projection_tiles = projection_tiles
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.output_initializer = keras.initializers.get(output_initializer or kernel_initializer)
        self.supports_masking = True

    def build(self, input_shape):
        dim = input_shape[-1]
        if dim % self.num_heads:
            raise ValueError(
                "Expected `num_heads` to divide the number of channels. "
                f"Received: num_heads={self.num_heads}, input_shape={tuple(input_shape)}"
            )
        self.head_dim = dim // self.num_heads
        self.projection = ShortProjection(
            3 * dim,
            self.num_taps,
            self.projection_tiles,
            self.kernel_initializer,
            name="projection",
            dtype=self.dtype_policy,
        )
        self.projection.build(input_shape)
        self.filter = ImplicitFilter(
            self.num_heads, self.filter_length, self.filter_order, name="filter", dtype=self.dtype_policy
        )
        self.skip = self.add_weight(shape=(self.num_heads,), initializer="random_normal", name="skip", autocast=False)
        self.output_dense = keras.layers.Dense(
            dim, kernel_initializer=self.output_initializer.clone(), name="output", dtype=self.dtype_policy
        )
        self.output_dense.build(input_shape)

    def empty_cache(self, batch_size, capacity):
        """Returns the cache before the first of `capacity` positions, all of which the filters read."""
        dtype = keras.backend.result_type(self.compute_dtype, "float32")
        shape = (batch_size, self.num_heads, self.head_dim, capacity)
        return ops.zeros(shape, dtype), ops.zeros(shape, dtype), self.projection.empty_cache(batch_size)

    def call(self, x, attention_mask=None, cache=None, cache_index=None, num_kept=None, project=apply):
        check_length(x, self.filter_length)
        if cache is None:
            projected = self.projection(x, attention_mask)
        else:
            *kept, before = cache
            projected, before = self.projection(x, before=before, num_kept=num_kept)
        projected = at_least_float32(*ops.split(projected, 3, axis=-1))
        if cache is None:
            projected[2] = masked(projected[2], attention_mask)
        query, key, value = (self._heads(tensor) for tensor in projected)
        taps = ops.cast(self.filter.taps(), key.dtype)
        keys, values, first = key, value, 0
        if cache is not None:
            keys, values = (ops.slice_update(old, (0, 0, 0, cache_index), new) for old, new in zip(kept, (key, value)))
            cache, first = (keys, values, before), cache_index
        from_first = cache is None or attention_mask is None
        # Of a position and head, scores are as many floats as there are positions; transforms are `4 * d * d`.
        if from_first and (x.shape[1] or self.filter_length) > 4 * self.head_dim**2:
            z = ops.expand_dims(key, 3) * ops.expand_dims(value, 2)  # (batch, heads, d, d, length)
            z = long_convolution(z, ops.expand_dims(taps, (1, 2))) + ops.expand_dims(self.skip, (1, 2, 3)) * z
            y = ops.einsum("bhit,bhijt->bthj", query, z)
        else:
            scores = convolution_rows(taps, first, ops.shape(x)[1], ops.shape(keys)[3])
            scores = scores * ops.einsum("bhit,bhis->bhts", query, keys)
            own = ops.expand_dims(self.skip, (1, 2)) * ops.sum(query * key, axis=2, keepdims=True)
            y = ops.einsum("bhts,bhjs->bthj", scores, values) + ops.transpose(own * value, (0, 3, 1, 2))
        y = ops.reshape(y, (-1, ops.shape(x)[1], self.num_heads * self.head_dim))
        y = project(self.output_dense, ops.cast(y, self.compute_dtype))
        return y if cache is None else (y, cache)

    def _heads(self, x):
        """Returns `(batch, length, dim)` as `(batch, heads, d, length)`."""
        x = ops.reshape(x, (-1, ops.shape(x)[1], self.num_heads, self.head_dim))
        return ops.transpose(x, (0, 2, 3, 1))

    def state_size(self, length):
        """Returns how many floats stand for `length` positions, the same for any length: see `Hyena.state_size`."""
        dim = self.num_heads * self.head_dim
        return dim * self.head_dim * self.filter_order + 3 * dim * (self.num_taps - 1)

    def flops(self, length):
        """Returns the operations for a sequence by transforms, as the benchmark MAD counts, whichever way is taken.

        A multiplication and an addition count as two, the filter as none.
        """
        dim = self.num_heads * self.head_dim
        transforms = (10 * math.log2(max(length, 2)) + 4) * dim * self.head_dim
        return round(length * (self.projection.flops(1) + transforms + 2 * dim * dim))

    def compute_output_shape(self, input_shape):
        return tuple(input_shape)

    def get_config(self):
        return {
            **super().get_config(),
            "num_heads": self.num_heads,
            "filter_length": self.filter_length,
            "filter_order": self.filter_order,
            "num_taps": self.num_taps,
            "projection_tiles": self.projection_tiles,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "output_initializer": keras.initializers.serialize(self.output_initializer),
            "dtype": dtype_with_quantized_sublayers(self),
        }

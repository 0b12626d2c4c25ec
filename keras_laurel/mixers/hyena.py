"""The Hyena operator: two gates around a long convolution."""

import math

import keras
from keras import ops

from keras_laurel.layers.quantization import dtype_with_quantized_sublayers
from keras_laurel.mixers.causal_conv import CausalConv
from keras_laurel.mixers.heads import at_least_float32
from keras_laurel.mixers.implicit_filter import ImplicitFilter
from keras_laurel.mixers.last_layer import apply
from keras_laurel.mixers.long_convolution import convolution_rows, long_convolution
from keras_laurel.mixers.padding import kept_positions


@keras.saving.register_keras_serializable(package="keras_laurel")
class Hyena(keras.layers.Layer):
    """Gates a long convolution of a gated projection, each channel with a filter of its own.

        gate, read, value = split(conv(x @ projection + bias))
        y = (gate * (long_convolution(read * value, filter) + skip * read * value)) @ output + bias

    `projection` and `output` are `keras.layers.Dense` with bias, `conv` is a `CausalConv`, the filter an
    `ImplicitFilter`; the convolution is in float32 or finer. With `D = dim`, `E = expansion * D`, `k = num_taps`,
    `n = projection_tiles` and `F` weights of the filter: `3 * E / n * (D + 1) + 3 * E * (k + 1) + F + E + D * (E + 1)`.

    Args:
        filter_length: Integer above one, the longest input.
        filter_order: Positive integer, the width of the network that makes the filter.
        expansion: Positive integer, the inner width over `dim`.
        num_taps: Positive integer, the positions that the short convolution sums.
        projection_tiles: Positive integer that divides `3 * expansion * dim`; the projection makes as many times fewer
            channels, which are repeated one copy after the other. The benchmark MAD has 4 with `expansion=4`.
        kernel_initializer: Initializer of `projection`; the filter's is its own.
        output_initializer: Initializer of `output`. Defaults to `kernel_initializer`.
        **kwargs: Standard layer arguments, such as `name` and `dtype`.

    Call arguments:
        x: Float tensor of shape `(batch, length, dim)`.
        attention_mask: Boolean tensor `(batch, length)` or `(batch, 1, 1, length)`, false where a position is padding,
            which is zero to both convolutions. With a cache it only says that `x` goes on.
        cache: Pair of the long convolution's inputs and the short one's last before `x`, as `empty_cache` makes it.
        cache_index: Integer scalar, the position of the first of `x`. Needed with a cache. Without an `attention_mask`
            it must be 0, and `x` as long as the cache.
        num_kept: Integer scalar, how many positions of `x` the returned cache has taken up; by default all.
        project: Function that applies the last layer to its input; by default the layer's call.

    Returns:
        Tensor of the shape of `x`, in the compute dtype; with a cache, a pair of it and the next cache.

    Raises:
        ValueError: If the input is longer than `filter_length`, or `projection_tiles` does not divide.

    Example:
    >>> layer = keras_laurel.mixers.Hyena(filter_length=16)
    >>> tuple(layer(np.ones((1, 3, 8), "float32")).shape), layer.count_params(), layer.state_size(3)
    ((1, 3, 8), 532, 80)

    Reference:
        [Poli et al., 2023](https://arxiv.org/abs/2302.10866)
    """

    def __init__(
        self,
        filter_length,
        filter_order=4,
        expansion=1,
        num_taps=3,
        projection_tiles=1,
        kernel_initializer="glorot_uniform",
        output_initializer=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.filter_length = filter_length
        self.filter_order = filter_order
        self.expansion = expansion
        self.num_taps = num_taps
        self.projection_tiles = projection_tiles
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.output_initializer = keras.initializers.get(output_initializer or kernel_initializer)
        self.supports_masking = True

    def build(self, input_shape):
        self.dim = dim = input_shape[-1]
        self.inner = self.expansion * dim
        self.projection = ShortProjection(
            3 * self.inner,
            self.num_taps,
            self.projection_tiles,
            self.kernel_initializer,
            name="projection",
            dtype=self.dtype_policy,
        )
        self.projection.build(input_shape)
        self.filter = ImplicitFilter(
            self.inner, self.filter_length, self.filter_order, name="filter", dtype=self.dtype_policy
        )
        self.skip = self.add_weight(shape=(self.inner,), initializer="random_normal", name="skip", autocast=False)
        self.output_dense = keras.layers.Dense(
            dim, kernel_initializer=self.output_initializer.clone(), name="output", dtype=self.dtype_policy
        )
        self.output_dense.build((*input_shape[:-1], self.inner))

    def empty_cache(self, batch_size, capacity):
        """Returns the cache before the first of `capacity` positions, all of which the filter reads."""
        dtype = keras.backend.result_type(self.compute_dtype, "float32")
        history = ops.zeros((batch_size, capacity, self.inner), dtype)
        return history, self.projection.empty_cache(batch_size)

    def call(self, x, attention_mask=None, cache=None, cache_index=None, num_kept=None, project=apply):
        y, cache = gated_convolution(self, x, attention_mask, cache, cache_index, num_kept)
        y = project(self.output_dense, y)
        return y if cache is None else (y, cache)

    def state_size(self, length):
        """Returns how many floats stand for `length` positions: the same for any length.

        Each channel counts the order of its filter, as the benchmark MAD does, and the short convolution's inputs; an
        exact decoder keeps all positions.
        """
        return self.inner * (self.filter_order + 3 * (self.num_taps - 1))

    def flops(self, length):
        """Returns the operations for a sequence; a multiplication and an addition count as two, the filter as none."""
        transforms = (10 * math.log2(max(length, 2)) + 4) * self.inner
        return round(length * (self.projection.flops(1) + transforms + 2 * self.inner * self.dim))

    def compute_output_shape(self, input_shape):
        return tuple(input_shape)

    def get_config(self):
        return {
            **super().get_config(),
            "filter_length": self.filter_length,
            "filter_order": self.filter_order,
            "expansion": self.expansion,
            "num_taps": self.num_taps,
            "projection_tiles": self.projection_tiles,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "output_initializer": keras.initializers.serialize(self.output_initializer),
            "dtype": dtype_with_quantized_sublayers(self),
        }


@keras.saving.register_keras_serializable(package="keras_laurel")
class ShortProjection(keras.layers.Layer):
    """A projection with bias and the short convolution after it: what Hyena's operators begin with.

    Args:
        units: Positive integer, the number of channels made.
        num_taps: Positive integer, the positions that the convolution sums.
        tiles: Positive integer that divides `units`; the kernel makes as many times fewer channels, which are repeated
            one copy after the other.
        kernel_initializer: Initializer of the kernel.
        **kwargs: Standard layer arguments, such as `name` and `dtype`.

    Call arguments:
        x: Float tensor of shape `(batch, length, dim)`.
        attention_mask: See `Hyena`; not together with `before`.
        before, num_kept: See `CausalConv`.

    Returns:
        Tensor of shape `(batch, length, units)`, in the compute dtype; with `before`, a pair of it and the next.

    Raises:
        ValueError: If `tiles` does not divide `units`.

    Example:
    >>> layer = keras_laurel.mixers.hyena.ShortProjection(6, num_taps=2, tiles=3)
    >>> tuple(layer(np.ones((1, 3, 8), "float32")).shape), layer.count_params()
    ((1, 3, 6), 36)
    """

    def __init__(self, units, num_taps, tiles=1, kernel_initializer="glorot_uniform", **kwargs):
        super().__init__(**kwargs)
        if tiles < 1 or units % tiles:
            raise ValueError(f"Expected `tiles` to divide the {units} channels. Received: tiles={tiles}")
        self.units = units
        self.num_taps = num_taps
        self.tiles = tiles
        self.kernel_initializer = keras.initializers.get(kernel_initializer)

    def build(self, input_shape):
        self.dense = keras.layers.Dense(
            self.units // self.tiles,
            kernel_initializer=self.kernel_initializer.clone(),
            name="dense",
            dtype=self.dtype_policy,
        )
        self.dense.build(input_shape)
        self.dim = input_shape[-1]
        self.conv = CausalConv(self.num_taps, name="conv", dtype=self.dtype_policy)
        self.conv.build((*input_shape[:-1], self.units))

    def empty_cache(self, batch_size):
        """Returns the convolution's inputs before the first position."""
        return ops.zeros((batch_size, self.num_taps - 1, self.units), self.compute_dtype)

    def call(self, x, attention_mask=None, before=None, num_kept=None):
        x = masked(self.dense(x), attention_mask)
        x = ops.tile(x, (1, 1, self.tiles)) if self.tiles > 1 else x
        return self.conv(x, before=before, num_kept=num_kept)

    def flops(self, length):
        """Returns the operations for a sequence; a multiplication and an addition count as two."""
        return 2 * length * (self.dim * self.units // self.tiles + self.num_taps * self.units)

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], self.units)

    def get_config(self):
        return {
            **super().get_config(),
            "units": self.units,
            "num_taps": self.num_taps,
            "tiles": self.tiles,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "dtype": dtype_with_quantized_sublayers(self),
        }


def gated_convolution(layer, x, attention_mask=None, cache=None, cache_index=None, num_kept=None):
    """Returns what `output` maps in `Hyena`, see there, and the next cache or `None`.

    `layer` is `Hyena`, or another with its `projection`, `filter`, `filter_length` and `skip`.
    """
    check_length(x, layer.filter_length)
    history = before = None
    if cache is None:
        projected = layer.projection(x, attention_mask)
    else:
        history, before = cache
        projected, before = layer.projection(x, before=before, num_kept=num_kept)
    gate, read, value = ops.split(projected, 3, axis=-1)
    (z,) = at_least_float32(masked(read * value, attention_mask if cache is None else None))
    taps = ops.cast(layer.filter.taps(), z.dtype)
    if cache is not None:
        history = ops.slice_update(history, (0, cache_index, 0), z)
        cache = (history, before)
    if cache is None or attention_mask is None:
        y = ops.swapaxes(long_convolution(ops.swapaxes(z, 1, 2), taps), 1, 2)
    else:
        rows = convolution_rows(taps, cache_index, ops.shape(x)[1], ops.shape(history)[1])
        y = ops.einsum("cts,bsc->btc", rows, history)
    return gate * ops.cast(y + layer.skip * z, layer.compute_dtype), cache


def masked(x, attention_mask):
    """Returns `x` of shape `(batch, length, dim)` with zeros where the mask says padding."""
    if attention_mask is None:
        return x
    return ops.where(ops.expand_dims(kept_positions(attention_mask), 2), x, ops.zeros_like(x))


def check_length(x, filter_length):
    """Refuses an input that is longer than the filter.

    Raises:
        ValueError: If it is.
    """
    if x.shape[1] is not None and x.shape[1] > filter_length:
        raise ValueError(
            "Expected at most `filter_length` positions. "
            f"Received: filter_length={filter_length}, shape={tuple(x.shape)}"
        )

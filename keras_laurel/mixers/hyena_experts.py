"""A mixture of small Hyena operators."""

import math

import keras
from keras import ops

from keras_laurel.layers.quantization import dtype_with_quantized_sublayers
from keras_laurel.mixers.heads import at_least_float32
from keras_laurel.mixers.hyena import ShortProjection, gated_convolution
from keras_laurel.mixers.implicit_filter import ImplicitFilter
from keras_laurel.mixers.last_layer import apply
from keras_laurel.mixers.routing import built_router, check_routing, expert_weights


@keras.saving.register_keras_serializable(package="keras_laurel")
class HyenaExperts(keras.layers.Layer):
    """Weighs the outputs of narrow Hyena operators, the experts, by a router, position by position.

        gate_e, read_e, value_e = split(conv(x @ projection + bias))        each of width w = expert_dim
        y_e = gate_e * (long_convolution(read_e * value_e, filter_e) + skip_e * read_e * value_e)
        y = (sum_e weights_e * y_e) @ output + bias,    weights = softmax of scores x @ router + bias

    All experts are computed. With `D = dim`, `E = num_experts`, `k = num_taps` and `F` weights of the filter:
    `3 * E * w * (D + k + 2) + F + E * w + E * (D + 1) + D * (w + 1)` weights.

    Args:
        num_experts: Positive integer.
        expert_dim: Positive integer, the width of an expert.
        filter_length: Integer above one, the longest input.
        num_active: Positive integer, how many experts are active at a position.
        routing: `"top_k"`, or `"leaky"`: see `keras_laurel.mixers.routing.expert_weights`. The benchmark MAD has
            `HyenaExperts(8, 16, routing="leaky")`.
        filter_order: Positive integer, the width of the network that makes the filters.
        num_taps: Positive integer, the positions that the short convolution sums.
        kernel_initializer: Initializer of `projection` and `router`; the filter's is its own.
        output_initializer: Initializer of `output`. Defaults to `kernel_initializer`.
        **kwargs: Standard layer arguments, such as `name` and `dtype`.

    Call arguments:
        x: Float tensor of shape `(batch, length, dim)`.
        attention_mask, cache, cache_index, num_kept, project: As of `Hyena`.

    Returns:
        Tensor of the shape of `x`, in the compute dtype; with a cache, a pair of it and the next cache.

    Raises:
        ValueError: If the input is longer than `filter_length`, or `num_active` or `routing` is out of its range.

    Example:
    >>> layer = keras_laurel.mixers.HyenaExperts(num_experts=2, expert_dim=4, filter_length=16, filter_order=4)
    >>> tuple(layer(np.ones((1, 3, 8), "float32")).shape), layer.count_params(), layer.state_size(3)
    ((1, 3, 8), 518, 80)

    Reference:
        [Poli et al., 2024](https://arxiv.org/abs/2403.17844), section 3
    """

    def __init__(
        self,
        num_experts,
        expert_dim,
        filter_length,
        num_active=2,
        routing="top_k",
        filter_order=16,
        num_taps=3,
        kernel_initializer="glorot_uniform",
        output_initializer=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        check_routing(num_experts, num_active, routing)
        self.num_experts = num_experts
        self.expert_dim = expert_dim
        self.filter_length = filter_length
        self.num_active = num_active
        self.routing = routing
        self.filter_order = filter_order
        self.num_taps = num_taps
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.output_initializer = keras.initializers.get(output_initializer or kernel_initializer)
        self.supports_masking = True

    def build(self, input_shape):
        self.dim = input_shape[-1]
        self.inner = self.num_experts * self.expert_dim
        self.projection = ShortProjection(
            3 * self.inner, self.num_taps, 1, self.kernel_initializer, name="projection", dtype=self.dtype_policy
        )
        self.projection.build(input_shape)
        self.filter = ImplicitFilter(
            self.inner, self.filter_length, self.filter_order, name="filter", dtype=self.dtype_policy
        )
        self.skip = self.add_weight(shape=(self.inner,), initializer="random_normal", name="skip", autocast=False)
        self.router = built_router(self, input_shape)
        self.output_dense = keras.layers.Dense(
            self.dim, kernel_initializer=self.output_initializer.clone(), name="output", dtype=self.dtype_policy
        )
        self.output_dense.build((*input_shape[:-1], self.expert_dim))

    def empty_cache(self, batch_size, capacity):
        """Returns the cache before the first of `capacity` positions, all of which the filters read."""
        dtype = keras.backend.result_type(self.compute_dtype, "float32")
        return ops.zeros((batch_size, capacity, self.inner), dtype), self.projection.empty_cache(batch_size)

    def call(self, x, attention_mask=None, cache=None, cache_index=None, num_kept=None, project=apply):
        y, cache = gated_convolution(self, x, attention_mask, cache, cache_index, num_kept)
        (scores,) = at_least_float32(self.router(x))
        y = ops.reshape(y, (*ops.shape(x)[:2], self.num_experts, self.expert_dim))
        weights = ops.cast(expert_weights(scores, self.num_active, self.routing), self.compute_dtype)
        y = project(self.output_dense, ops.einsum("btew,bte->btw", y, weights))
        return y if cache is None else (y, cache)

    def state_size(self, length):
        """Returns how many floats stand for `length` positions, the same for any length: see `Hyena.state_size`."""
        return self.inner * (self.filter_order + 3 * (self.num_taps - 1))

    def flops(self, length):
        """Returns the operations for a sequence; a multiplication and an addition count as two, the filter as none."""
        transforms = (10 * math.log2(max(length, 2)) + 4) * self.inner
        experts = 2 * self.dim * self.num_experts + 2 * self.inner + 2 * self.expert_dim * self.dim
        return round(length * (self.projection.flops(1) + transforms + experts))

    def compute_output_shape(self, input_shape):
        return tuple(input_shape)

    def get_config(self):
        return {
            **super().get_config(),
            "num_experts": self.num_experts,
            "expert_dim": self.expert_dim,
            "filter_length": self.filter_length,
            "num_active": self.num_active,
            "routing": self.routing,
            "filter_order": self.filter_order,
            "num_taps": self.num_taps,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "output_initializer": keras.initializers.serialize(self.output_initializer),
            "dtype": dtype_with_quantized_sublayers(self),
        }

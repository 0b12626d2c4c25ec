"""A mixture of small gated experts in place of one feed-forward layer."""

import keras
from keras import ops

from keras_laurel.layers.quantization import dtype_with_quantized_sublayers
from keras_laurel.mixers.heads import at_least_float32
from keras_laurel.mixers.last_layer import apply
from keras_laurel.mixers.routing import built_router, check_routing, expert_weights


@keras.saving.register_keras_serializable(package="keras_laurel")
class MixtureOfExperts(keras.layers.Layer):
    """Weighs experts `(x @ up) * gelu(x @ gate)` by a router, position by position.

        h_e = (x @ up_e) * gelu(x @ gate_e)
        y = sum_e weights_e * (h_e @ output_e),    weights = softmax of the `num_active` largest of x @ router + bias

    All experts are computed, as they are small: this is the mixture's mathematics, not its savings. The kernels are
    `keras.layers.Dense`, those of the experts side by side in one. With `D = dim`, `E = num_experts` and
    `w = expert_dim`: `3 * D * E * w + E * (D + 1)` weights.

    Args:
        num_experts: Positive integer.
        expert_dim: Positive integer, the inner width of an expert.
        num_active: Positive integer, how many experts have a weight at a position.
        routing: `"top_k"`, or `"leaky"`: see `keras_laurel.mixers.routing.expert_weights`.
        mix_experts: If true, `output` maps the inner widths of all experts to those of all (`E` times its weights), as
            in the benchmark MAD, whose mixture is `MixtureOfExperts(8, 16, routing="leaky", mix_experts=True)`. Its
            count of 165,000 at 128 channels has 128 weights that are not used, and that are not here.
        kernel_initializer: Initializer of all kernels but `output`.
        output_initializer: Initializer of `output`. Defaults to `kernel_initializer`.
        **kwargs: Standard layer arguments, such as `name` and `dtype`.

    Call arguments:
        x: Float tensor of shape `(batch, ..., dim)`.
        project: Function that applies the last layer to its input; by default the layer's call.

    Returns:
        Tensor of the shape of `x`, in the compute dtype.

    Raises:
        ValueError: If `num_active` or `routing` is out of its range.

    Example:
    >>> layer = keras_laurel.mixers.MixtureOfExperts(num_experts=4, expert_dim=2)
    >>> tuple(layer(np.ones((1, 3, 8), "float32")).shape), layer.count_params()
    ((1, 3, 8), 228)

    Reference:
        [Shazeer et al., 2017](https://arxiv.org/abs/1701.06538); [Poli et al., 2024](https://arxiv.org/abs/2403.17844)
    """

    def __init__(
        self,
        num_experts,
        expert_dim,
        num_active=2,
        routing="top_k",
        mix_experts=False,
        kernel_initializer="glorot_uniform",
        output_initializer=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        check_routing(num_experts, num_active, routing)
        self.num_experts = num_experts
        self.expert_dim = expert_dim
        self.num_active = num_active
        self.routing = routing
        self.mix_experts = mix_experts
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.output_initializer = keras.initializers.get(output_initializer or kernel_initializer)
        self.supports_masking = True

    def build(self, input_shape):
        inner = self.num_experts * self.expert_dim

        def dense(name, inputs, units, initializer):
            layer = keras.layers.Dense(
                units, use_bias=False, kernel_initializer=initializer.clone(), name=name, dtype=self.dtype_policy
            )
            layer.build((*input_shape[:-1], inputs))
            return layer

        self.dim = dim = input_shape[-1]
        self.up = dense("up", dim, inner, self.kernel_initializer)
        self.gate = dense("gate", dim, inner, self.kernel_initializer)
        units = dim * self.num_experts if self.mix_experts else dim
        self.output_dense = dense("output", inner, units, self.output_initializer)
        self.router = built_router(self, input_shape)

    def call(self, x, project=apply):
        h = self.up(x) * ops.gelu(self.gate(x), approximate=True)
        (scores,) = at_least_float32(self.router(x))
        weights = ops.cast(expert_weights(scores, self.num_active, self.routing), self.compute_dtype)
        if not self.mix_experts:
            return project(self.output_dense, h * ops.repeat(weights, self.expert_dim, axis=-1))
        z = project(self.output_dense, h)
        z = ops.reshape(z, (*ops.shape(x), self.num_experts))
        return ops.einsum("...de,...e->...d", z, weights)

    def state_size(self, length):
        """Returns 0: no position needs another."""
        return 0

    def flops(self, length):
        """Returns the operations for `length` positions; a multiplication and an addition count as two."""
        inner = self.num_experts * self.expert_dim
        outputs = self.num_experts if self.mix_experts else 1
        return 2 * length * self.dim * ((2 + outputs) * inner + self.num_experts)

    def compute_output_shape(self, input_shape):
        return tuple(input_shape)

    def get_config(self):
        return {
            **super().get_config(),
            "num_experts": self.num_experts,
            "expert_dim": self.expert_dim,
            "num_active": self.num_active,
            "routing": self.routing,
            "mix_experts": self.mix_experts,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "output_initializer": keras.initializers.serialize(self.output_initializer),
            "dtype": dtype_with_quantized_sublayers(self),
        }

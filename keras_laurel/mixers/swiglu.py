"""The gated feed-forward layer of today's decoders."""

import keras
from keras import ops

from keras_laurel.layers.quantization import dtype_with_quantized_sublayers
from keras_laurel.mixers.last_layer import apply


@keras.saving.register_keras_serializable(package="keras_laurel")
class SwiGLU(keras.layers.Layer):
    """Maps each position by `(silu(x @ gate) * (x @ up)) @ output`.

    The kernels are three `keras.layers.Dense` without bias, named `gate`, `up` and `output`: `3 * dim *
    intermediate_dim` weights.

    Args:
        intermediate_dim: Positive integer, the inner width.
        kernel_initializer: Initializer of `gate` and `up`.
        output_initializer: Initializer of `output`. Defaults to `kernel_initializer`.
        **kwargs: Standard layer arguments, such as `name` and `dtype`.

    Call arguments:
        x: Float tensor of shape `(batch, ..., dim)`.
        project: Function that applies the last layer to its input; by default the layer's call.

    Returns:
        Tensor of the shape of `x`, in the compute dtype.

    Example:
    >>> layer = keras_laurel.mixers.SwiGLU(intermediate_dim=4)
    >>> tuple(layer(np.ones((1, 3, 8), "float32")).shape), layer.count_params()
    ((1, 3, 8), 96)

    Reference:
        [Shazeer, 2020](https://arxiv.org/abs/2002.05202)
    """

    def __init__(self, intermediate_dim, kernel_initializer="glorot_uniform", output_initializer=None, **kwargs):
        super().__init__(**kwargs)
        self.intermediate_dim = intermediate_dim
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.output_initializer = keras.initializers.get(output_initializer or kernel_initializer)
        self.supports_masking = True

    def build(self, input_shape):
        def dense(name, units, initializer):
            return keras.layers.Dense(
                units, use_bias=False, kernel_initializer=initializer.clone(), name=name, dtype=self.dtype_policy
            )

        self.dim = input_shape[-1]
        self.gate = dense("gate", self.intermediate_dim, self.kernel_initializer)
        self.up = dense("up", self.intermediate_dim, self.kernel_initializer)
        self.output_dense = dense("output", input_shape[-1], self.output_initializer)
        self.gate.build(input_shape)
        self.up.build(input_shape)
        self.output_dense.build((*input_shape[:-1], self.intermediate_dim))

    def call(self, x, project=apply):
        return project(self.output_dense, ops.silu(self.gate(x)) * self.up(x))

    def state_size(self, length):
        """Returns 0: no position needs another."""
        return 0

    def flops(self, length):
        """Returns the operations for `length` positions; a multiplication and an addition count as two."""
        return 6 * length * self.dim * self.intermediate_dim

    def compute_output_shape(self, input_shape):
        return tuple(input_shape)

    def get_config(self):
        return {
            **super().get_config(),
            "intermediate_dim": self.intermediate_dim,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "output_initializer": keras.initializers.serialize(self.output_initializer),
            "dtype": dtype_with_quantized_sublayers(self),
        }

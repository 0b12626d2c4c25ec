"""The plain feed-forward layer."""

import keras

from keras_laurel.layers.quantization import dtype_with_quantized_sublayers
from keras_laurel.mixers.last_layer import apply


@keras.saving.register_keras_serializable(package="keras_laurel")
class MLP(keras.layers.Layer):
    """Maps each position by `activation(x @ up) @ output`.

    The kernels are two `keras.layers.Dense` without bias, named `up` and `output`: `2 * dim * intermediate_dim`
    weights.

    Args:
        intermediate_dim: Positive integer, the inner width.
        activation: Activation function. Defaults to `"gelu"`.
        kernel_initializer: Initializer of `up`.
        output_initializer: Initializer of `output`. Defaults to `kernel_initializer`.
        **kwargs: Standard layer arguments, such as `name` and `dtype`.

    Call arguments:
        x: Float tensor of shape `(batch, ..., dim)`.
        project: Function that applies the last layer to its input; by default the layer's call.

    Returns:
        Tensor of the shape of `x`, in the compute dtype.

    Example:
    >>> layer = keras_laurel.mixers.MLP(intermediate_dim=4)
    >>> tuple(layer(np.ones((1, 3, 8), "float32")).shape), layer.count_params()
    ((1, 3, 8), 64)
    """

    def __init__(
        self,
        intermediate_dim,
        activation="gelu",
        kernel_initializer="glorot_uniform",
        output_initializer=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.intermediate_dim = intermediate_dim
        self.activation = keras.activations.get(activation)
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.output_initializer = keras.initializers.get(output_initializer or kernel_initializer)
        self.supports_masking = True

    def build(self, input_shape):
        self.dim = input_shape[-1]
        self.up = keras.layers.Dense(
            self.intermediate_dim,
            activation=self.activation,
            use_bias=False,
            kernel_initializer=self.kernel_initializer.clone(),
            name="up",
            dtype=self.dtype_policy,
        )
        self.up.build(input_shape)
        self.output_dense = keras.layers.Dense(
            input_shape[-1],
            use_bias=False,
            kernel_initializer=self.output_initializer.clone(),
            name="output",
            dtype=self.dtype_policy,
        )
        self.output_dense.build((*input_shape[:-1], self.intermediate_dim))

    def call(self, x, project=apply):
        return project(self.output_dense, self.up(x))

    def state_size(self, length):
        """Returns 0: no position needs another."""
        return 0

    def flops(self, length):
        """Returns the operations for `length` positions; a multiplication and an addition count as two."""
        return 4 * length * self.dim * self.intermediate_dim

    def compute_output_shape(self, input_shape):
        return tuple(input_shape)

    def get_config(self):
        return {
            **super().get_config(),
            "intermediate_dim": self.intermediate_dim,
            "activation": keras.activations.serialize(self.activation),
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "output_initializer": keras.initializers.serialize(self.output_initializer),
            "dtype": dtype_with_quantized_sublayers(self),
        }

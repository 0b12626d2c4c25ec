"""The short convolution before a recurrence or a long convolution."""

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="keras_laurel")
class CausalConv(keras.layers.Layer):
    """Sums each channel's last few positions, each with a weight: `y[t] = bias + sum_j kernel[j] * x[t - last + j]`.

    `kernel` has shape `(num_taps, dim)` and `last = num_taps - 1` belongs to the position itself; positions before the
    first are zeros. It is a depthwise convolution, written as shifted products because XLA's own takes 40 times as
    long on a CPU.

    Args:
        num_taps: Positive integer, how many positions are summed.
        use_bias: Whether each channel has a bias.
        kernel_initializer: Initializer of the kernel and of the bias. Defaults to PyTorch's for such a convolution,
            uniform in `[-1, 1] / sqrt(num_taps)`.
        **kwargs: Standard layer arguments, such as `name` and `dtype`.

    Call arguments:
        x: Float tensor of shape `(batch, length, dim)`.
        before: Tensor `(batch, num_taps - 1, dim)`, the positions before the first; zeros if it is not given.
        num_kept: Integer scalar, with `before`: what is returned of it ends with this many positions of `x`, by
            default with all.

    Returns:
        Tensor of the shape of `x`, in the compute dtype; with `before`, a pair of it and the next `before`.

    Raises:
        ValueError: If `num_taps` is no positive integer.

    Example:
    >>> layer = keras_laurel.mixers.CausalConv(num_taps=2, use_bias=False, kernel_initializer="ones")
    >>> np.ravel(ops.convert_to_numpy(layer(np.array([[[1.0], [2.0], [4.0]]], "float32")))).tolist()
    [1.0, 3.0, 6.0]
    """

    def __init__(self, num_taps, use_bias=True, kernel_initializer=None, **kwargs):
        super().__init__(**kwargs)
        if num_taps < 1:
            raise ValueError(f"Expected `num_taps` to be a positive integer. Received: num_taps={num_taps}")
        self.num_taps = num_taps
        self.use_bias = use_bias
        if kernel_initializer is None:
            kernel_initializer = keras.initializers.RandomUniform(-(num_taps**-0.5), num_taps**-0.5)
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.supports_masking = True

    def build(self, input_shape):
        dim = input_shape[-1]
        self.kernel = self.add_weight(
            shape=(self.num_taps, dim), initializer=self.kernel_initializer.clone(), name="kernel"
        )
        if self.use_bias:
            self.bias = self.add_weight(shape=(dim,), initializer=self.kernel_initializer.clone(), name="bias")

    def call(self, x, before=None, num_kept=None):
        batch_size, length, dim = ops.shape(x)
        if before is None:
            padded = ops.pad(x, ((0, 0), (self.num_taps - 1, 0), (0, 0)))
        else:
            padded = ops.concatenate([before, x], axis=1)
        y = sum(padded[:, tap : tap + length] * self.kernel[tap] for tap in range(self.num_taps))
        y = y + self.bias if self.use_bias else y
        if before is None:
            return y
        start = length if num_kept is None else num_kept
        return y, ops.slice(padded, (0, start, 0), (batch_size, self.num_taps - 1, dim))

    def compute_output_shape(self, input_shape):
        return tuple(input_shape)

    def get_config(self):
        return {
            **super().get_config(),
            "num_taps": self.num_taps,
            "use_bias": self.use_bias,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
        }

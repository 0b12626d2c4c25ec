"""The filter of a long convolution, made by a small network of the position."""

import math

import keras
import numpy as np
from keras import ops

TORCH_LINEAR = {"scale": 1 / 3, "mode": "fan_in", "distribution": "uniform"}
LEAST, FASTEST, SLOWEST = 0.01, 0.3, 1.5  # a channel's window falls to LEAST after FASTEST to SLOWEST of the length
FREQUENCY = 1e-4


@keras.saving.register_keras_serializable(package="keras_laurel")
class ImplicitFilter(keras.layers.Layer):
    """Makes a filter of any number of channels from few weights: a network with sines of features of the position.

        h = sin(frequency * dense(features))
        h = sin(frequency * dense(h))                        twice
        taps[t] = (h[t] @ output) * exp(-|rate| * t / (length - 1))

    It is not called: `taps` returns the filters. The features are weights, which start at
    `(t / (length - 1), cos(w), -sin(w))`, `w = 2e-4 * pi * t / length`; all sines share one vector of frequencies. The
    rates are fixed and lie evenly between those of windows that fall to a hundredth after 0.3 and after 1.5 lengths.
    With `o = order` there are `3 * length + 4 * o + 2 * (o * o + o) + o + o * channels` weights.

    Args:
        channels: Positive integer, the number of filters.
        length: Integer above one, the number of positions.
        order: Positive integer, the width of the network.
        kernel_initializer: Initializer of its kernels. Defaults to PyTorch's for a linear layer.
        **kwargs: Standard layer arguments, such as `name` and `dtype`.

    Raises:
        ValueError: If `length` is less than two.

    Example:
    >>> layer = keras_laurel.mixers.ImplicitFilter(channels=8, length=16)
    >>> tuple(layer.taps().shape), layer.count_params()
    ((8, 16), 140)

    Reference:
        [Poli et al., 2023](https://arxiv.org/abs/2302.10866), section 3.3
    """

    def __init__(self, channels, length, order=4, kernel_initializer=None, **kwargs):
        super().__init__(**kwargs)
        if length < 2:
            raise ValueError(f"Expected `length` to be an integer above 1. Received: length={length}")
        self.channels = channels
        self.length = length
        self.order = order
        if kernel_initializer is None:
            kernel_initializer = keras.initializers.VarianceScaling(**TORCH_LINEAR)
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.build()

    def build(self, input_shape=None):
        def weight(name, shape, initializer):
            return self.add_weight(shape=shape, initializer=initializer, name=name, autocast=False)

        self.features = weight("features", (self.length, 3), _features)
        self.frequency = weight("frequency", (self.order,), "ones")
        self.kernels, self.biases = [], []
        for index, inputs in enumerate((3, self.order, self.order)):
            shape = (inputs, self.order)
            self.kernels.append(weight(f"kernel_{index}", shape, self.kernel_initializer.clone()))
            self.biases.append(weight(f"bias_{index}", (self.order,), "zeros"))
        self.output_kernel = weight("output", (self.order, self.channels), self.kernel_initializer.clone())
        self.built = True

    def taps(self):
        """Returns the filters, a tensor of shape `(channels, length)` in float32 or finer."""
        h = ops.convert_to_tensor(self.features)
        for kernel, bias in zip(self.kernels, self.biases):
            h = ops.sin(self.frequency * (ops.matmul(h, kernel) + bias))
        rates = np.abs(np.linspace(math.log(LEAST) / SLOWEST, math.log(LEAST) / FASTEST, self.channels))
        time = np.linspace(0, 1, self.length)
        window = ops.convert_to_tensor(np.exp(-rates[:, None] * time), h.dtype)
        return ops.transpose(ops.matmul(h, self.output_kernel)) * window

    def flops(self):
        """Returns the operations that make the filter, a multiplication and an addition counting as two."""
        return 2 * self.length * (3 * self.order + 2 * self.order**2 + self.order * self.channels)

    def get_config(self):
        return {
            **super().get_config(),
            "channels": self.channels,
            "length": self.length,
            "order": self.order,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
        }


def _features(shape, dtype=None, **_):
    time = np.arange(shape[0])
    angle = FREQUENCY * 2 * np.pi * time / shape[0]
    features = np.stack([time / (shape[0] - 1), np.cos(angle), -np.sin(angle)], axis=1)
    return ops.convert_to_tensor(features, dtype=dtype)

"""The causal convolution with a filter as long as the sequence, by fast Fourier transform."""

import keras
from keras import ops


def long_convolution(x, kernel):
    """Returns `y[..., t] = sum_j kernel[..., j] * x[..., t - j]`, the positions before the first being zeros.

    Both are padded to twice the length, so that the product of their transforms wraps nothing around: `5 * length *
    log2(length)` operations each way for a channel, where the sum takes `length ** 2`.

    Args:
        x: Float tensor of shape `(..., length)`, float32 or float64; positions last. `length` may be unknown.
        kernel: Float tensor `(..., num_taps)` whose other axes broadcast to those of `x`, of the same dtype; `num_taps`
            is known and no less than `length`. What goes beyond `length` is not used.

    Returns:
        Tensor of the shape of `x`.

    Example:
    >>> from keras_laurel.mixers.long_convolution import long_convolution
    >>> y = long_convolution(np.array([1.0, 0.0, 2.0], "float32"), np.array([1.0, 3.0, 5.0], "float32"))
    >>> ops.convert_to_numpy(y).round(4).tolist()
    [1.0, 3.0, 7.0]

    Reference:
        [Poli et al., 2023](https://arxiv.org/abs/2302.10866), section 3.3
    """
    length = x.shape[-1]
    size = 2 * (kernel.shape[-1] if length is None else length)
    if length is not None:
        kernel = kernel[..., :length]
    if keras.backend.backend() == "jax":
        from jax.numpy import fft  # whose gradient takes half the time of that of real and imaginary parts

        return fft.irfft(fft.rfft(x, size) * fft.rfft(kernel, size), size)[..., : x.shape[-1]]
    (a, b), (c, d) = ops.rfft(x, size), ops.rfft(kernel, size)
    y = ops.irfft((a * c - b * d, a * d + b * c), size)
    return y[..., : ops.shape(x)[-1]]


def convolution_rows(kernel, first, num_rows, length):
    """Returns rows of the matrix that convolves `length` positions with `kernel`, as a long convolution does.

    Args:
        kernel: Float tensor `(channels, num_taps)`.
        first: Integer scalar, the position that the first row makes.
        num_rows: Positive integer, the number of positions made.
        length: Positive integer, the number of positions read.

    Returns:
        Tensor `(channels, num_rows, length)`: `kernel[:, t - s]` for positions `s` up to `t`, and zeros.

    Example:
    >>> from keras_laurel.mixers.long_convolution import convolution_rows
    >>> np.array(convolution_rows(np.array([[1.0, 3.0, 5.0]], "float32"), 1, 2, 3)).tolist()
    [[[3.0, 1.0, 0.0], [5.0, 3.0, 1.0]]]
    """
    back = ops.expand_dims(first + ops.arange(num_rows), 1) - ops.arange(length)
    return ops.where(back >= 0, ops.take(kernel, ops.maximum(back, 0), axis=-1), 0.0)

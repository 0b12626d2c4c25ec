"""LAuReL-RW: learned residual weights."""

import keras

from keras_laurel.layers.laurel import Laurel


@keras.saving.register_keras_serializable(package="keras_laurel")
class LaurelRW(Laurel):
    """Joins by `alpha * f(x) + beta * x`: `Laurel` with residual weights on.

    Args:
        residual_weights: `"softmax"`, `"sigmoid"`, `"single"` or `"free"`.
        **kwargs: The other arguments of `Laurel`, such as `scale` and `per_channel`.

    Example:
    >>> x, fx = np.random.normal(size=(2, 4, 8)).astype("float32")
    >>> y = keras_laurel.LaurelRW()([x, fx])
    >>> np.array_equal(ops.convert_to_numpy(y), x + fx)
    True

    Reference:
        [Menghani et al., 2025](https://arxiv.org/abs/2411.07501), section 2.1
    """

    def __init__(self, residual_weights="softmax", **kwargs):
        super().__init__(residual_weights=residual_weights, **kwargs)

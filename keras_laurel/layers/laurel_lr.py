"""LAuReL-LR: a low-rank skip path."""

import keras

from keras_laurel.layers.laurel import Laurel


@keras.saving.register_keras_serializable(package="keras_laurel")
class LaurelLR(Laurel):
    """Joins by `f(x) + x + x @ down @ up`: `Laurel` with a low-rank map.

    Args:
        rank: Positive integer below the number of channels. The paper's best are 16 and 32 for ResNet-50, 32 to 64
            for language models.
        **kwargs: The other arguments of `Laurel`, such as `norm` and `down_initializer`.

    Example:
    >>> x, fx = np.random.normal(size=(2, 4, 8)).astype("float32")
    >>> y = keras_laurel.LaurelLR(rank=4)([x, fx])
    >>> np.array_equal(ops.convert_to_numpy(y), x + fx)
    True

    Reference:
        [Menghani et al., 2025](https://arxiv.org/abs/2411.07501), section 2.2
    """

    def __init__(self, rank=16, **kwargs):
        super().__init__(rank=rank, **kwargs)

"""LAuReL-PA: weighted previous activations."""

import keras

from keras_laurel.layers.laurel import Laurel


@keras.saving.register_keras_serializable(package="keras_laurel")
class LaurelPA(Laurel):
    """Joins by `f(x) + x + sum_j gamma[j] * x_j`: `Laurel` with previous activations.

    Args:
        num_activations: Positive integer k, how many states to weigh, the join's own input among them. Defaults to
            3, the paper's, or to 1 with `previous="first"`.
        previous: `"last"` for the last k states, `"first"` for the stack's first.
        **kwargs: The other arguments of `Laurel`, such as `rank` for low-rank `h_j`.

    Example:
    >>> x, fx, x_before = np.random.normal(size=(3, 4, 8)).astype("float32")
    >>> y = keras_laurel.LaurelPA(num_activations=2)([x, fx, x_before])
    >>> np.array_equal(ops.convert_to_numpy(y), x + fx)
    True

    Reference:
        [Menghani et al., 2025](https://arxiv.org/abs/2411.07501), section 2.3
    """

    def __init__(self, num_activations=None, previous="last", **kwargs):
        if num_activations is None:
            num_activations = 1 if previous == "first" else 3
        super().__init__(num_activations=num_activations, previous=previous, **kwargs)

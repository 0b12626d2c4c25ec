"""Initializers of the low-rank map's factors."""

import keras
import numpy as np
from keras import ops


@keras.saving.register_keras_serializable(package="keras_laurel")
class ColumnOrthogonal(keras.initializers.Initializer):
    """Initializes the low-rank map's `down` with orthogonal columns, without randomness.

    For a shape `(dim, rank)`, `down[i, j] = 1 / sqrt(rank * dim)` where `i % rank == j`, else 0: every
    input channel feeds one column, so columns do not overlap. The paper's choice for language models.

    Example:
    >>> initializer = keras_laurel.initializers.ColumnOrthogonal()
    >>> ops.convert_to_numpy(initializer((4, 2)) * 8**0.5).round(5).tolist()
    [[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0]]

    Reference:
        [Menghani et al., 2025](https://arxiv.org/abs/2411.07501), section 3.2
    """

    def __call__(self, shape, dtype=None, **kwargs):
        """Returns a tensor of `shape`.

        Args:
            shape: Two integers `(dim, rank)`.
            dtype: Dtype of the result. Defaults to `keras.config.floatx()`.
            **kwargs: Accepted for compatibility with other initializers, such as `layout`; unused.

        Raises:
            ValueError: If `shape` does not have two dimensions.
        """
        if len(shape) != 2:
            raise ValueError(f"Expected a shape `(dim, rank)`. Received: shape={shape}")
        dim, rank = shape
        columns = np.arange(dim)[:, None] % rank == np.arange(rank)
        return ops.convert_to_tensor(columns / np.sqrt(rank * dim), dtype=dtype or keras.config.floatx())

"""Initializers of the low-rank maps, by the names that command lines take."""

import keras

from applications.errors import UserError
from keras_laurel.initializers import ColumnOrthogonal


def initializer(name):
    """Returns the initializer `name`, `"column_orthogonal"` or one of Keras's.

    Raises:
        UserError: If there is none.
    """
    if name == "column_orthogonal":
        return ColumnOrthogonal()
    try:
        return keras.initializers.get(name)
    except ValueError:
        raise UserError(f"unknown initializer {name!r}; known: column_orthogonal, and Keras's by name") from None

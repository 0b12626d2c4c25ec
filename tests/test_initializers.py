"""Initializers of the low-rank factors."""

import keras
import numpy as np
import pytest
from variants import to_numpy

from keras_laurel import Laurel
from keras_laurel.initializers import ColumnOrthogonal


def test_values_are_the_papers():
    # down[i, j] = 1 / sqrt(rank * dim) where i mod rank == j, else 0
    values = to_numpy(ColumnOrthogonal()((5, 2)))
    assert (
        values.tolist() == (np.array([[1, 0], [0, 1], [1, 0], [0, 1], [1, 0]]) / np.sqrt(10)).astype("float32").tolist()
    )


@pytest.mark.parametrize("shape", [(8, 2), (8, 3), (5, 4)])
def test_columns_are_orthogonal(shape):
    values = to_numpy(ColumnOrthogonal()(shape))
    gram = values.T @ values
    assert np.count_nonzero(gram - np.diag(np.diag(gram))) == 0
    assert np.all(np.diag(gram) > 0)


def test_dtype_is_the_one_asked_for_or_floatx():
    assert keras.backend.standardize_dtype(ColumnOrthogonal()((4, 2), dtype="float16").dtype) == "float16"
    assert keras.backend.standardize_dtype(ColumnOrthogonal()((4, 2)).dtype) == keras.config.floatx()


def test_other_than_two_dimensions_raise():
    with pytest.raises(ValueError, match=r"Expected a shape `\(dim, rank\)`. Received: shape=\(4,\)"):
        ColumnOrthogonal()((4,))


def test_serialization_restores_the_class():
    config = keras.initializers.serialize(ColumnOrthogonal())
    assert config["registered_name"] == "keras_laurel>ColumnOrthogonal"
    assert isinstance(keras.initializers.deserialize(config), ColumnOrthogonal)


def test_reaches_down_and_survives_saving(tmp_path):
    x = keras.Input((4,))
    model = keras.Model(x, Laurel(rank=2, down_initializer=ColumnOrthogonal())([x, x]))
    down = model.layers[-1].augmentation.downs[0].kernel
    assert np.array_equal(to_numpy(down), to_numpy(ColumnOrthogonal()((4, 2))))
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert isinstance(loaded.layers[-1].down_initializer, ColumnOrthogonal)

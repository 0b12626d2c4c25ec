"""What docstring examples may use without importing it."""

import keras
import numpy as np
import pytest

import keras_laurel


@pytest.fixture(autouse=True)
def _docstring_names(doctest_namespace):
    doctest_namespace.update(keras=keras, keras_laurel=keras_laurel, np=np, ops=keras.ops)

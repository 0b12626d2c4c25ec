"""What the tests of the engines share. The tests of an engine are collected on its own backend alone."""

import keras
import numpy as np
import pytest

ENGINES = {"jax": "jax_mesh", "tensorflow": "tensorflow_strategy", "torch": "torch_process_group"}

collect_ignore = [f"test_{engine}.py" for backend, engine in ENGINES.items() if backend != keras.backend.backend()]


@pytest.fixture
def small_model():
    def make(**kwargs):
        model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
        model.compile("sgd", "mse", **kwargs)
        return model

    return make


@pytest.fixture
def assert_equal_training():
    """Asserts that two trainings had the same losses and metrics and ended with the same weights."""

    def check(actual, expected):
        assert actual["history"].keys() == expected["history"].keys()
        for key, values in expected["history"].items():
            np.testing.assert_allclose(actual["history"][key], values, rtol=0, atol=1e-5)
        for ours, theirs in zip(actual["weights"], expected["weights"], strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)

    return check

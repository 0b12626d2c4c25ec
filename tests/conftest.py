"""What all tests share: a mark and a seed. Functions are in `reference.py`, `variants.py` and `processes.py`."""

import gc

import keras
import pytest


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    for item in items:
        if any(keras.backend.backend() in mark.args for mark in item.iter_markers("slow_on")):
            item.add_marker("slow")


@pytest.fixture(autouse=True, scope="module")
def _garbage():
    """Has later collections, of which `quantize` makes one a layer, pass over what has been imported and cached."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _seed():
    keras.utils.set_random_seed(0)


@pytest.fixture
def float64():
    """Turns on float64 where a backend has it off."""
    if keras.backend.backend() == "jax":
        import jax

        with jax.enable_x64(True):
            yield
    else:
        yield

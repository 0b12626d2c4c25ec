"""What all tests share: a seed. Shared functions are in `reference.py`, `variants.py` and `processes.py`."""

import gc

import keras
import pytest


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

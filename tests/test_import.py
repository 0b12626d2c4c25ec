"""What an import of the package brings along."""

import sys

import keras
from processes import run_python

import keras_laurel

NEW_MODULES = """
import sys
import keras
before = set(sys.modules)
import keras_laurel
print(*sorted({name.partition(".")[0] for name in set(sys.modules) - before}))
"""


def test_import_brings_nothing_that_keras_does_not():
    # In particular no second backend, no keras_hub and no matplotlib.
    new = set(run_python(NEW_MODULES, backend=keras.backend.backend()).split())
    assert new - set(sys.stdlib_module_names) == {"keras_laurel"}


def test_public_names_are_there():
    for name in ("Laurel", "LaurelRW", "LaurelLR", "LaurelPA"):
        assert getattr(keras_laurel, name) is getattr(keras_laurel.layers, name)
    for name in ("History", "LaurelMonitor", "exclude_from_weight_decay", "residual", "__version__"):
        assert hasattr(keras_laurel, name)

"""A model saved on this backend gives the same outputs in a new process, on this and every other backend."""

import keras
import numpy as np
import pytest
from processes import EVERY_BACKEND, run_python
from variants import randomize, to_numpy

import keras_laurel
from keras_laurel.joins import WORDS

LOAD_AND_COMPARE = """
import sys
import keras
import numpy as np
import keras_laurel
model = keras.models.load_model(sys.argv[1])
data = np.load(sys.argv[2])
y = keras.ops.convert_to_numpy(model(data["x"]))
print(keras.backend.backend(), np.max(np.abs(y - data["y"])))
"""


def all_words():
    inputs = x = keras.Input((None, 8))
    history = keras_laurel.History()
    settings = [{}, {"norm": "rms"}, {"per_channel": True}, {"previous": "first"}, {"drop_path": 0.5}, {"scale": 1.5}]
    for index in range(12):
        word = WORDS[index % len(WORDS)]
        kwargs = settings[index % len(settings)]
        if not ("lr" in word or "pa" in word):
            kwargs = {key: value for key, value in kwargs.items() if key != "norm"}
        fx = keras.layers.Dense(8, "tanh")(keras.layers.LayerNormalization()(x))
        x = history.join(keras_laurel.residual(word, rank=2, **kwargs), x, fx)
    return keras.Model(inputs, keras.layers.LayerNormalization()(x))


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    model = all_words()
    randomize(model)
    x = np.random.default_rng(0).normal(size=(2, 4, 8)).astype("float32")
    model.save(folder / "model.keras")
    np.savez(folder / "data.npz", x=x, y=to_numpy(model(x)))
    return folder


@pytest.mark.parametrize("backend", EVERY_BACKEND)
def test_loads_in_a_new_process_with_the_same_outputs(saved, backend):
    printed = run_python(LOAD_AND_COMPARE, saved / "model.keras", saved / "data.npz", backend=backend)
    name, error = printed.split()[-2:]
    assert name == backend
    assert float(error) <= 1e-5

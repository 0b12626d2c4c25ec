"""LoRA beside the joins of a retrofitted model whose own weights are frozen."""

import keras
import numpy as np
import pytest
from folding import assert_folds, outputs_of, randomize
from keras import layers
from variants import to_numpy

import keras_laurel

VECTORS = np.random.default_rng(0).normal(size=(8, 6)).astype("float32")
LABELS = np.arange(8) % 3


def base():
    inputs = keras.Input((6,))
    x = layers.Dense(6, name="stem")(inputs)
    for index in range(3):
        fx = layers.Dense(6, name=f"branch_{index}")(layers.LayerNormalization()(x))
        x = layers.Add()([x, fx])
    return randomize(keras.Model(inputs, layers.Dense(3, name="head")(x)))


@pytest.fixture
def trained():
    """A retrofitted model with LoRA on every kernel, those of the low-rank maps included, and its weights before."""
    model = keras_laurel.laurelize(base(), "rw+lr+pa", rank=2, trainable="laurel")
    start = outputs_of(model, VECTORS)
    for layer in model._flatten_layers():
        if isinstance(layer, layers.Dense):
            layer.trainable = True
            layer.enable_lora(1)
            if layer.use_bias:
                layer.bias.trainable = False
    np.testing.assert_array_equal(outputs_of(model, VECTORS), start)
    before = {weight.path: to_numpy(weight) for weight in model.weights}
    model.compile(keras.optimizers.Adam(0.1), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    for _ in range(3):
        model.train_on_batch(VECTORS, LABELS)
    return model, before


def test_only_lora_and_the_joins_are_trained(trained):
    model, before = trained
    moved = {weight.path for weight in model.weights if not np.array_equal(to_numpy(weight), before[weight.path])}
    assert moved == {weight.path for weight in model.trainable_weights}
    assert {path.rsplit("/", 1)[-1] for path in moved} == {"lora_kernel_a", "lora_kernel_b", "logits", "gamma"}
    # LoRA of five Dense layers, and of the (1 + 2 + 3) first and three second factors of the joins.
    assert len(moved) == 2 * (5 + 9) + 2 * 3


def test_saving_merges_lora_into_the_kernels(trained, tmp_path):
    model, _ = trained
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras", compile=False)
    np.testing.assert_allclose(outputs_of(loaded, VECTORS), outputs_of(model, VECTORS), rtol=1e-5, atol=1e-5)
    # The Dense layers may go on learning theirs, from zero. The factors of the maps are loaded without.
    added = [to_numpy(weight) for weight in loaded.weights if weight.path.endswith("lora_kernel_b")]
    assert len(added) == 5
    assert not any(np.any(array) for array in added)


def test_folding_merges_lora_too(trained):
    folded = assert_folds(trained[0], VECTORS)
    assert not [weight.path for weight in folded.weights if "lora" in weight.path]

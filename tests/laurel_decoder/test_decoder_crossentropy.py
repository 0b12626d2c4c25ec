"""The loss of a language model is Keras's."""

import keras
import numpy as np
import pytest

from keras_laurel.applications.laurel_decoder.crossentropy import TokenCrossentropy
from tests.laurel_decoder.decoders import causal_lm

LOGITS = np.random.default_rng(0).normal(size=(2, 3, 5)).astype("float32")
TOKENS = np.array([[0, 4, 2], [1, 1, 3]])
WEIGHTS = np.array([[1.0, 0.0, 0.5], [0.0, 2.0, 1.0]])


@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["", "weighted"])
@pytest.mark.parametrize(
    "arguments", [{}, {"reduction": None}, {"ignore_class": 1}], ids=["", "no_reduction", "ignore"]
)
def test_its_values_are_those_of_keras(arguments, weights):
    expected = keras.losses.SparseCategoricalCrossentropy(from_logits=True, **arguments)(TOKENS, LOGITS, weights)
    loss = TokenCrossentropy(**arguments)(TOKENS, LOGITS, weights)
    np.testing.assert_allclose(*map(keras.ops.convert_to_numpy, (loss, expected)), rtol=1e-6)


def test_tokens_may_have_an_axis_of_one():
    loss = TokenCrossentropy()
    np.testing.assert_allclose(float(loss(TOKENS[..., None], LOGITS)), float(loss(TOKENS, LOGITS)), rtol=1e-6)


def test_a_language_model_has_it_by_default():
    lm = causal_lm()
    lm.compile()
    assert isinstance(lm.loss, TokenCrossentropy)


def test_its_config_makes_it_again():
    loss = keras.losses.deserialize(keras.losses.serialize(TokenCrossentropy(ignore_class=-1)))
    assert isinstance(loss, TokenCrossentropy)
    assert (loss.from_logits, loss.ignore_class) == (True, -1)

"""The weighted previous activations."""

import keras
import numpy as np
import pytest
from variants import randomize, to_numpy, weight_name

import keras_laurel
from keras_laurel.layers import PreviousActivations

STATES = list(np.random.default_rng(0).normal(size=(3, 2, 4)).astype("float32"))


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("rank", [None, 1])
def test_early_joins_have_a_weight_for_each_state_that_they_see(count, rank):
    layer = PreviousActivations(3, rank)
    layer(STATES[:count])
    names = sorted(weight_name(weight) for weight in layer.weights)
    assert layer.gamma.shape == (count,)
    assert names == sorted(["gamma"] + (["up"] + [f"down_{j}" for j in range(count)] if rank else []))


def test_too_many_states_raise():
    with pytest.raises(ValueError, match=r"at most 2 states \(`num_activations`\). Received: 3"):
        PreviousActivations(2)(STATES)


@pytest.mark.parametrize("rank", [None, 1])
def test_new_layer_returns_zeros(rank):
    assert np.all(to_numpy(PreviousActivations(3, rank)(STATES)) == 0)


def test_gamma_starts_at_zero_for_the_identity_and_at_one_for_low_rank_maps():
    identity, low_rank = PreviousActivations(3), PreviousActivations(3, rank=1)
    identity(STATES)
    low_rank(STATES)
    assert to_numpy(identity.gamma).tolist() == [0, 0, 0]
    assert to_numpy(low_rank.gamma).tolist() == [1, 1, 1]


@pytest.mark.parametrize("rank", [None, 1])
@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_symbolic_output_has_shape_and_dtype_of_the_eager_one(rank, policy):
    layer = PreviousActivations(3, rank, dtype=policy)
    eager, spec = layer(STATES), layer([keras.KerasTensor((2, 4))] * 3)
    assert spec.shape == tuple(eager.shape)
    assert spec.dtype == keras.backend.standardize_dtype(eager.dtype)


def test_save_and_load(tmp_path):
    inputs = [keras.Input((4,)) for _ in STATES]
    layer = keras_laurel.layers.PreviousActivations(3, rank=2)
    model = keras.Model(inputs, layer(inputs))
    randomize(layer)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert np.array_equal(to_numpy(loaded(STATES)), to_numpy(model(STATES)))

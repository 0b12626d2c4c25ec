"""The low-rank map."""

import keras
import numpy as np
import pytest
from variants import assert_close, randomize, to_numpy, weights_of

from keras_laurel.layers import LowRank


def test_list_of_inputs_gives_the_sum_of_their_maps():
    arrays = np.random.default_rng(0).normal(size=(3, 2, 4)).astype("float32")
    layer = LowRank(rank=2)
    layer(list(arrays))
    randomize(layer)
    weights = weights_of(layer)
    assert weights["up"].shape == (6, 4)
    maps = [a @ weights[f"down_{j}"] @ weights["up"][2 * j : 2 * j + 2] for j, a in enumerate(arrays.astype("float64"))]
    assert_close(to_numpy(layer(list(arrays))), sum(maps))


def test_new_map_is_zero_and_has_two_r_dim_weights():
    layer = LowRank(rank=3)
    assert np.all(to_numpy(layer(np.ones((2, 4), "float32"))) == 0)
    assert layer.count_params() == 2 * 3 * 4


def test_initializers_reach_their_factors():
    layer = LowRank(1, down_initializer=keras.initializers.Constant(2.0), up_initializer="ones")
    assert to_numpy(layer(np.array([[1, 3]], "float32"))).tolist() == [[8, 8]]
    assert np.all(weights_of(layer)["down_0"] == 2)


def test_downs_of_several_inputs_start_unequal():
    layer = LowRank(rank=2)
    layer.build([(2, 4), (2, 4)])
    assert np.all(weights_of(layer)["down_0"] != weights_of(layer)["down_1"])


def test_mask_passes():
    x = keras.layers.Masking()(np.array([[[1.0, 1.0], [0.0, 0.0]]], "float32"))
    assert to_numpy(LowRank(1)(x)._keras_mask).tolist() == [[True, False]]


@pytest.mark.parametrize("inputs", [1, 2])
def test_output_shape_is_the_inputs(inputs):
    x = keras.Input((3, 4))
    assert LowRank(1)(x if inputs == 1 else [x, x]).shape == (None, 3, 4)

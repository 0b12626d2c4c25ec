"""Joins from words."""

import functools
import re

import keras
import pytest

from keras_laurel import Laurel, LaurelLR, LaurelRW, residual

CASES = {
    "add": (None, None, None),
    "rw": ("softmax", None, None),
    "lr": (None, 5, None),
    "pa": (None, None, 4),
    "rw+lr": ("softmax", 5, None),
    "rw+pa": ("softmax", None, 4),
    "lr+pa": (None, 5, 4),
    "rw+lr+pa": ("softmax", 5, 4),
}


def parts(join):
    form = join.residual_weights and join.residual_weights.form
    return form, join.rank, join.num_activations


@pytest.mark.parametrize("word", CASES)
def test_word_gives_the_parts_it_names_with_rank_and_k(word):
    assert parts(residual(word, rank=5, num_activations=4)) == CASES[word]


def test_defaults_are_the_papers():
    assert parts(residual("rw+lr+pa")) == ("softmax", 16, 3)


def test_previous_first_weighs_one_state():
    join = residual("pa", previous="first")
    assert (join.num_activations, join.previous) == (1, "first")


def test_form_of_the_residual_weights_is_passed_on():
    assert parts(residual("rw", residual_weights="single"))[0] == "single"


@pytest.mark.parametrize("word", CASES)
def test_other_arguments_reach_the_layer(word):
    join = residual(word, drop_path=0.1, seed=3, axis=1, scale=1.0, name="join", dtype="mixed_bfloat16")
    config = join.get_config()
    assert [config[key] for key in ("drop_path", "seed", "axis", "scale", "name")] == [0.1, 3, 1, 1.0, "join"]
    assert join.compute_dtype == "bfloat16"


def test_each_call_makes_a_new_layer():
    assert residual("rw") is not residual("rw")


@pytest.mark.parametrize("word", ["nearly", "lr+rw", "", "RW", None, 3])
def test_unknown_word_names_the_known_ones(word):
    with pytest.raises(ValueError, match=re.escape(f"Received: {word!r}")) as error:
        residual(word)
    assert all(repr(known) in str(error.value) for known in CASES)


class Own(keras.layers.Add):
    """A join of a user's."""


@pytest.mark.parametrize("make", [Own, functools.partial(Own), lambda **kwargs: Own(**kwargs)])
def test_callable_makes_the_join(make):
    join = residual(make, name="join")
    assert isinstance(join, Own)
    assert join.name == "join"


def test_callable_gets_what_was_given_and_no_defaults():
    assert residual(LaurelLR, rank=4).rank == 4
    assert residual(LaurelRW).rank is None
    given = {"rank": 5, "num_activations": 1, "residual_weights": "free", "previous": "first", "name": "join"}
    received = {}
    residual(lambda **kwargs: received.update(kwargs) or Own(), **given)
    assert received == given


def test_class_of_the_package_is_a_callable_too():
    assert parts(residual(functools.partial(Laurel, rank=2), drop_path=0.5)) == (None, 2, None)


def test_layer_instance_raises_because_joins_do_not_share_one():
    with pytest.raises(ValueError, match=r"makes a new layer for each join. Received: <Own"):
        residual(Own())


def test_callable_that_makes_no_layer_raises():
    with pytest.raises(ValueError, match=r"to return a Keras layer. Received: 3"):
        residual(lambda: 3)

"""What carries the states of a stack."""

import keras
import numpy as np
import pytest
from variants import assert_close, randomize, to_numpy

import keras_laurel
from keras_laurel import History, Laurel, LaurelPA


class Recorder:
    """Records which of the states it is given; a state is an array of its number."""

    def __init__(self, max_previous, previous="last"):
        self.max_previous, self.previous = max_previous, previous

    def __call__(self, inputs):
        self.given = [int(state[0, 0]) for state in inputs]
        return inputs[0] + 1


def run(recorders):
    history, x = History(), np.zeros((1, 2))
    for recorder in recorders:
        x = history.join(recorder, x, np.full((1, 2), -1))
    return [recorder.given for recorder in recorders]


def test_previous_states_come_newest_first_and_at_most_max_previous():
    assert run([Recorder(2) for _ in range(5)]) == [[0, -1], [1, -1, 0], [2, -1, 1, 0], [3, -1, 2, 1], [4, -1, 3, 2]]


def test_first_gets_the_first_state_of_the_stack():
    assert run([Recorder(1, "first") for _ in range(4)]) == [[0, -1], [1, -1, 0], [2, -1, 0], [3, -1, 0]]


def test_joins_of_different_kinds_share_one_history():
    assert run([Recorder(0), Recorder(2), Recorder(1, "first"), Recorder(0), Recorder(1)]) == [
        [0, -1],
        [1, -1, 0],
        [2, -1, 0],
        [3, -1],
        [4, -1, 3],
    ]


def test_states_that_a_join_keeps_of_its_own_go_to_the_next():
    class Keeper(Recorder):
        def __call__(self, inputs):
            return [super().__call__(inputs), *(np.full((1, 2), 10 * (inputs[0][0, 0] + 1) + i) for i in range(2))]

    assert run([Keeper(2) for _ in range(3)]) == [[0, -1], [1, -1, 10, 11], [2, -1, 20, 21]]


def test_history_starts_anew_where_the_shape_changes():
    history, joins = History(), [LaurelPA(3) for _ in range(5)]
    x = keras.Input((4,))
    for index, join in enumerate(joins):
        if index == 3:
            x = keras.layers.Dense(6)(x)
        x = history.join(join, x, keras.layers.Dense(x.shape[-1])(x))
    assert [join.num_inputs for join in joins] == [2, 3, 4, 2, 3]


def test_keras_add_joins_and_counts_as_a_state():
    history, join = History(), LaurelPA(2)
    x = keras.Input((4,))
    y = history.join(keras.layers.Add(), x, x)
    z = history.join(join, y, y)
    randomize(join)
    gamma = to_numpy(join.augmentation.gamma)
    # From x = 1 the `Add` makes y = 2, and the join 2 + 2 + gamma_0 * 2 + gamma_1 * 1
    value = to_numpy(keras.Model(x, z)(np.ones((1, 4), "float32")))
    assert_close(value, np.full((1, 4), 4 + 2 * gamma[0] + gamma[1]))


def loop(x, kernels, gammas, k):
    """The stack in NumPy: x_{i+1} = tanh(x_i W_i) + x_i + sum_j gamma_ij x_{i-j}."""
    states = [x]
    for kernel, gamma in zip(kernels, gammas):
        x = states[-1]
        previous = states[::-1][:k]
        assert len(gamma) == len(previous)
        states.append(np.tanh(x @ kernel) + x + sum(g * state for g, state in zip(gamma, previous)))
    return states[-1]


def stack_class(base):
    class Stack(base):
        def __init__(self):
            super().__init__()
            self.branches = [keras.layers.Dense(4, "tanh", use_bias=False) for _ in range(4)]
            self.joins = [LaurelPA(3) for _ in range(4)]

        def call(self, x):
            history = History()
            for branch, join in zip(self.branches, self.joins):
                x = history.join(join, x, branch(x))
            return x

    return Stack


def stack_in_a_functional_model():
    stack, x = stack_class(keras.layers.Layer)(), keras.Input((4,))
    return keras.Model(x, stack.call(x)), stack


def stack_in_a_layers_call():
    stack, x = stack_class(keras.layers.Layer)(), keras.Input((4,))
    return keras.Model(x, stack(x)), stack


def stack_in_a_models_call():
    model = stack_class(keras.Model)()
    model(np.zeros((1, 4), "float32"))
    return model, model


@pytest.mark.parametrize("make", [stack_in_a_functional_model, stack_in_a_layers_call, stack_in_a_models_call])
def test_stack_of_four_equals_a_loop_in_numpy(make):
    model, stack = make()
    for join in stack.joins:
        join.augmentation.gamma.assign(np.random.default_rng(0).normal(size=join.augmentation.gamma.shape))
    x = np.random.default_rng(1).normal(size=(2, 4)).astype("float32")
    kernels = [to_numpy(branch.kernel).astype("float64") for branch in stack.branches]
    gammas = [to_numpy(join.augmentation.gamma).astype("float64") for join in stack.joins]
    expected = loop(x.astype("float64"), kernels, gammas, 3)
    for y in (model(x), model.predict(x, verbose=0), model(x)):
        assert_close(to_numpy(y), expected)


def test_first_state_reaches_every_join_of_a_model():
    joins, history = [LaurelPA(previous="first") for _ in range(3)], History()
    inputs = x = keras.Input((2,))
    for join in joins:
        x = history.join(join, x, keras.layers.Rescaling(2.0)(x))
    model = keras.Model(inputs, x)
    for join in joins:
        join.augmentation.gamma.assign([1.0])
    # 1, then three times the state and once the first: 2 + 1 + 1 = 4, 12 + 1 = 13, 39 + 1 = 40
    assert to_numpy(model(np.ones((1, 2), "float32"))).tolist() == [[40.0, 40.0]]


def test_join_without_previous_activations_gets_none():
    x, history = keras.Input((4,)), History()
    for word in ("add", "rw", "lr"):
        join = keras_laurel.residual(word, rank=2)
        x = history.join(join, x, x)
        assert isinstance(join, Laurel)
        assert join.num_inputs == 2

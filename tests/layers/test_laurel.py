"""The join as a whole: values worked by hand, the form of Gemma 3n, precision, stochastic depth, errors."""

import math
import re

import keras
import numpy as np
import pytest
import reference
from keras import ops
from variants import (
    FLOAT32_TOLERANCE,
    VARIANTS,
    assert_close,
    random_inputs,
    random_join,
    randomize,
    to_numpy,
    weight_name,
    weights_of,
)

import keras_laurel
from keras_laurel import Laurel, LaurelPA
from keras_laurel.layers import LowRank, PreviousActivations, ResidualWeights

X, FX, OLDER = ([[1.0, 2.0]], [[10.0, 20.0]], [[3.0, 5.0]])


def value_at(join, inputs, **values):
    """Returns the join's output with its weights, by name, set to `values`."""
    inputs = [np.array(array, "float32") for array in inputs]
    join.build([array.shape for array in inputs])
    assert {weight_name(weight) for weight in join.trainable_weights} == set(values)
    for weight in join.trainable_weights:
        weight.assign(np.array(values[weight_name(weight)]))
    return to_numpy(join(inputs))[0].tolist()


LOG3 = math.log(3.0)  # e**LOG3 / (e**LOG3 + e**0) = 3/4, and sigmoid(LOG3) = 1 / (1 + 1/3) = 3/4


@pytest.mark.parametrize(("form", "logits"), [("softmax", [LOG3, 0]), ("sigmoid", [LOG3, -LOG3]), ("single", [LOG3])])
def test_residual_weights_by_hand(form, logits):
    # alpha = 2 * 3/4 = 3/2, beta = 2 * 1/4 = 1/2: (15, 30) + (1/2, 1)
    y = value_at(Laurel(residual_weights=form), [X, FX], logits=logits)
    assert y == pytest.approx([15.5, 31.0], rel=FLOAT32_TOLERANCE)


def test_low_rank_by_hand():
    # x @ down = 1 + 4 = 5, times up: (15, -5). 10 + 1 + 15 = 26, 20 + 2 - 5 = 17
    assert value_at(Laurel(rank=1), [X, FX], down_0=[[1], [2]], up=[[3, -1]]) == [26, 17]


def test_beta_weighs_the_low_rank_map_too_by_hand():
    # 2 * (10, 20) + 3 * ((1, 2) + (15, -5)) = (20 + 48, 40 - 9)
    join = Laurel(residual_weights="free", rank=1)
    assert value_at(join, [X, FX], logits=[2, 3], down_0=[[1], [2]], up=[[3, -1]]) == [68, 31]


def test_previous_activations_by_hand():
    # 2 * (1, 2) - 1 * (3, 5) = (-1, -1): 10 + 1 - 1, 20 + 2 - 1
    assert value_at(Laurel(num_activations=2), [X, FX, OLDER], gamma=[2, -1]) == [10, 21]


def test_first_activation_by_hand():
    # (10, 20) + (1, 2) + 2 * (3, 5): the first state is weighed, x is not
    assert value_at(Laurel(num_activations=1, previous="first"), [X, FX, OLDER], gamma=[2]) == [17, 32]


def test_first_activation_of_the_first_join_is_x_by_hand():
    # (10, 20) + (1, 2) + 2 * (1, 2)
    assert value_at(Laurel(num_activations=1, previous="first"), [X, FX], gamma=[2]) == [13, 26]


def test_low_rank_previous_activations_by_hand():
    # 2 * 1 * (1, 2) - 1 * 5 * (3, 4) = (-13, -16): 10 + 1 - 13, 20 + 2 - 16
    join = Laurel(rank=1, num_activations=2)
    y = value_at(join, [X, FX, OLDER], gamma=[2, -1], down_0=[[1], [0]], down_1=[[0], [1]], up=[[1, 2], [3, 4]])
    assert y == [-2, 6]


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", ["lr", "lr+pa", "rw+lr+pa", "rw+lr+pa_norm", "lr+pa_first"])
def test_projections_that_have_been_made_stand_in_for_the_states(name, training):
    config = VARIANTS[name]
    join, inputs = random_join(config), random_inputs(config)
    maps = join.augmentation if name == "lr" else join.augmentation.low_rank
    states = inputs[2:] if name == "lr+pa_first" else [inputs[0], *inputs[2:]]
    projections = [state @ to_numpy(down.kernel) for state, down in zip(states, maps.downs)]
    y = join(inputs[:2], projections=projections, training=training)
    assert_close(to_numpy(y), to_numpy(join(inputs)))


@pytest.mark.parametrize(("name", "wanted"), [("rw", 0), ("rw+lr+pa", 3)])
def test_another_number_of_projections_than_of_maps_raises(name, wanted):
    x, fx, *_ = random_inputs(VARIANTS[name])
    with pytest.raises(ValueError, match=f"Expected {wanted} projections, as many as maps. Received: 1"):
        random_join(VARIANTS[name])([x, fx], projections=[x])


def test_norm_by_hand():
    # x @ down @ up = (1, 7), its mean square 25, the normed map (1/5, 7/5), with gain (1, 14): 10 + 1 + 1, 20 + 2 + 14
    join = Laurel(rank=1, norm="rms", norm_epsilon=1e-12)
    y = value_at(join, [X, FX], down_0=[[1], [0]], up=[[1, 7]], gain=[5, 10])
    assert y == pytest.approx([12, 36], rel=FLOAT32_TOLERANCE)


def test_gamma_is_newest_first_by_hand():
    # The states are 1, 10 and 100: 2 * 1 + 3 * 10 + 5 * 100, plus x = 1
    assert value_at(Laurel(num_activations=3), [[[1]], [[0]], [[10]], [[100]]], gamma=[2, 3, 5]) == [533]


@pytest.mark.parametrize("form", ["softmax", "sigmoid", "single", "free"])
def test_scale_of_one_is_the_papers_literal_form_and_halves(form):
    assert value_at(Laurel(residual_weights=form, scale=1.0), [X, FX], logits=start(form)) == [5.5, 11]


def start(form):
    return {"single": [0], "free": [0.5, 0.5]}.get(form, [0, 0])


@pytest.mark.parametrize("form", ["softmax", "sigmoid", "single", "free"])
def test_new_layer_with_scale_of_one_halves_exactly(form):
    y = Laurel(residual_weights=form, scale=1.0)([np.array(X, "float32"), np.array(FX, "float32")])
    assert to_numpy(y).tolist() == [[5.5, 11.0]]


def test_normed_low_rank_map_with_loaded_weights_equals_gemma_3n():
    rng = np.random.default_rng(0)
    x, left, right, weight = (rng.normal(size=size) for size in ((2, 3, 8), (2, 8), (8, 2), (8,)))
    join = Laurel(rank=2, norm="rms")
    join.build([x.shape] * 2)
    for variable in join.trainable_weights:
        variable.assign({"down_0": left.T, "up": right.T, "gain": weight}[weight_name(variable)])
    loaded = weights_of(join)
    expected = reference.gemma3n_laurel_block(x.astype("float32"), loaded["down_0"].T, loaded["up"].T, loaded["gain"])
    assert_close(to_numpy(join([x.astype("float32"), np.zeros(x.shape, "float32")])), expected)


# In each of these a sum cancels to 0.003, which is lost if its terms are rounded: bfloat16's next number above 1 is
# 1.0078. Left are the one rounding of the result (2**-8 of it) and float32's of terms of order 1.
CANCELLED = pytest.approx([0.003] * 4, rel=2**-8, abs=4 * 2**-24)
MINUS_ONE, ONE = [[-1.0] * 4], [[1.0] * 4]


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "bfloat16"])
def test_alpha_and_beta_are_not_rounded_to_bfloat16(policy):
    join = Laurel(residual_weights="free", dtype=policy)
    assert value_at(join, [MINUS_ONE, ONE], logits=[1.003, 1]) == CANCELLED
    join = Laurel(residual_weights="free", dtype=policy)
    assert value_at(join, [ONE, MINUS_ONE], logits=[1, 1.003]) == CANCELLED


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "bfloat16"])
def test_gamma_is_not_rounded_to_bfloat16(policy):
    assert value_at(Laurel(num_activations=1, dtype=policy), [ONE, [[-2.0] * 4]], gamma=[1.003]) == CANCELLED


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "bfloat16"])
def test_norm_and_its_gain_are_not_rounded_to_bfloat16(policy):
    # x @ down @ up = 1 in every channel, and so is its norm
    join = Laurel(rank=1, norm="rms", norm_epsilon=1e-12, dtype=policy)
    weights = {"down_0": [[-1], [0], [0], [0]], "up": ONE, "gain": [1.003] * 4}
    assert value_at(join, [MINUS_ONE, [[0.0] * 4]], **weights) == CANCELLED


def test_norm_of_large_values_does_not_overflow_float16():
    # The square of 300 is beyond float16's 65504
    join = Laurel(rank=1, norm="rms", dtype="mixed_float16")
    weights = {"down_0": [[1], [0], [0], [0]], "up": [[300.0] * 4], "gain": [1] * 4}
    assert value_at(join, [ONE, [[0.0] * 4]], **weights) == [2.0] * 4


def test_drop_path_keeps_or_drops_the_branch_of_an_example():
    x, fx = np.random.default_rng(0).normal(size=(2, 16, 1, 3)).astype("float32")
    join = Laurel(drop_path=0.25, seed=1)
    y = to_numpy(join([x, fx], training=True))
    dropped = np.all(y == x, axis=(1, 2))
    assert 0 < np.sum(dropped) < 16
    assert_close(y[~dropped], (x + fx / 0.75)[~dropped])
    again = to_numpy(join([x, fx], training=True))
    assert np.any(again != y)
    assert np.array_equal(to_numpy(Laurel(drop_path=0.25, seed=1)([x, fx], training=True)), y)


def test_drop_path_is_off_at_inference():
    x, fx = np.random.default_rng(0).normal(size=(2, 16, 3)).astype("float32")
    join = Laurel(drop_path=0.9)
    assert np.array_equal(to_numpy(join([x, fx])), x + fx)
    assert np.array_equal(to_numpy(join([x, fx], training=False)), x + fx)


def test_drop_path_leaves_the_skip_and_weighs_what_is_kept():
    x, fx = np.ones((2, 16, 3), "float32")
    y = value_at_training(Laurel(residual_weights="free", drop_path=0.5, seed=1), [x, fx], logits=[2, 3])
    assert set(y.ravel().tolist()) == {3.0, 3.0 + 2.0 / 0.5}


def value_at_training(join, inputs, **values):
    value_at(join, inputs, **values)
    return to_numpy(join(inputs, training=True))


def test_drop_path_keeps_the_mean():
    # 4096 draws of 0 or 4/3: a standard deviation of the mean of sqrt(1/3 / 4096) = 0.009, of which 0.06 are six
    x, fx = np.zeros((4096, 1), "float32"), np.ones((4096, 1), "float32")
    assert abs(np.mean(to_numpy(Laurel(drop_path=0.25, seed=1)([x, fx], training=True))) - 1) < 0.06


def test_lora_on_a_factor_learns_and_is_saved(tmp_path):
    x = keras.Input((4,))
    join = Laurel(rank=2, num_activations=1)
    model = keras.Model(x, join([x, x]))
    randomize(join)
    join.augmentation.low_rank.up.enable_lora(rank=1)
    array = np.random.default_rng(0).normal(size=(2, 4)).astype("float32")
    before, kernel = to_numpy(model(array)), to_numpy(join.augmentation.low_rank.up._kernel)
    model.compile(keras.optimizers.SGD(0.1), "mse", run_eagerly=True)
    model.train_on_batch(array, array)
    model.train_on_batch(array, array)
    assert not np.array_equal(to_numpy(model(array)), before)
    assert np.array_equal(to_numpy(join.augmentation.low_rank.up._kernel), kernel)
    model.save(tmp_path / "model.keras")
    assert_close(to_numpy(keras.models.load_model(tmp_path / "model.keras")(array)), to_numpy(model(array)))


def test_lora_on_the_up_factor_of_lr_changes_nothing_at_first():
    x, fx = np.random.default_rng(0).normal(size=(2, 3, 4)).astype("float32")
    join = Laurel(rank=2)
    join([x, fx])
    randomize(join)
    before, weights = to_numpy(join([x, fx])), len(join.trainable_weights)
    join.augmentation.up.enable_lora(rank=1)
    assert len(join.trainable_weights) == weights + 1  # two factors for one frozen kernel
    assert np.array_equal(to_numpy(join([x, fx])), before)


def test_weight_paths_are_stable():
    # Sharding rules match these paths: a silent change means silently replicated weights.
    join = Laurel("softmax", rank=1, num_activations=2, norm="rms", name="join")
    join.build([(2, 4)] * 3)
    assert [weight.path for weight in join.trainable_weights] == [
        "join/gain",
        "join/residual_weights/logits",
        "join/previous_activations/gamma",
        "join/previous_activations/low_rank/down_0/kernel",
        "join/previous_activations/low_rank/down_1/kernel",
        "join/previous_activations/low_rank/up/kernel",
    ]
    join = Laurel(rank=1, name="join")
    join.build([(2, 4)] * 2)
    assert [weight.path for weight in join.trainable_weights] == [
        "join/low_rank/down_0/kernel",
        "join/low_rank/up/kernel",
    ]


A = np.zeros((2, 4), "float32")
ERRORS = [
    (lambda: Laurel(residual_weights="tanh"), "one of ('softmax', 'sigmoid', 'single', 'free'). Received: 'tanh'"),
    (lambda: Laurel(residual_weights="softmax", scale=0), "positive `scale`. Received: scale=0"),
    (lambda: Laurel(previous="newest"), "`previous` to be 'last' or 'first'. Received: previous='newest'"),
    (lambda: Laurel(previous="first"), "`num_activations=1` with `previous='first'`"),
    (lambda: LaurelPA(3, previous="first"), "weighs one state. Received: num_activations=3"),
    (lambda: Laurel(rank=1, norm="layer"), "`norm` to be None or 'rms'. Received: norm='layer'"),
    (lambda: Laurel(norm="rms"), "nothing else to normalize. Received: rank=None, num_activations=None"),
    (lambda: Laurel(rank=1, norm="rms", norm_epsilon=0), "positive `norm_epsilon`. Received: norm_epsilon=0"),
    (lambda: Laurel(drop_path=1.0), "`drop_path` in [0, 1). Received: drop_path=1.0"),
    (lambda: Laurel(drop_path=-0.1), "`drop_path` in [0, 1). Received: drop_path=-0.1"),
    (lambda: Laurel(axis=0), "other than 0, the batch axis. Received: axis=0"),
    (lambda: Laurel(axis=(1, 2)), "`axis` to be an integer other than 0, the batch axis. Received: axis=(1, 2)"),
    (lambda: Laurel(rank=0), "`rank` to be a positive integer. Received: rank=0"),
    (lambda: Laurel(rank=0, num_activations=2), "`rank` to be a positive integer. Received: rank=0"),
    (lambda: Laurel(rank=2.0), "`rank` to be a positive integer. Received: rank=2.0"),
    (lambda: Laurel(num_activations=0), "`num_activations` to be a positive integer. Received: num_activations=0"),
    (lambda: Laurel(num_activations=1.5), "`num_activations` to be a positive integer. Received: num_activations=1.5"),
    (
        lambda: Laurel(rank=1, norm="rms", up_initializer="zeros"),
        "with `norm='rms'`: the norm would multiply the first",
    ),
    (lambda: Laurel(rank=1, norm="rms", down_initializer="zeros"), "initializers other than zeros with `norm='rms'`"),
    (lambda: Laurel(rank=1, down_initializer="zeros"), "at most one of `down_initializer` and `up_initializer`"),
    (lambda: LowRank(1, keras.initializers.Constant(0.0)), "neither factor would ever get a gradient. Received: "),
    (lambda: ResidualWeights("tanh"), "form of the residual weights to be one of"),
    (lambda: ResidualWeights(scale=-1), "positive `scale`. Received: scale=-1"),
    (lambda: PreviousActivations(0), "`num_activations` to be a positive integer. Received: num_activations=0"),
    (lambda: PreviousActivations(1)([A, A]), "at most 1 states (`num_activations`). Received: 2"),
    (lambda: Laurel()(A), "list `[x, fx]` of tensors. Received: one tensor of shape (2, 4)"),
    (lambda: Laurel()([A]), "list `[x, fx]` of 2 tensors. Received: 1 tensors"),
    (lambda: Laurel()([A, A, A]), "list `[x, fx]` of 2 tensors. Received: 3 tensors"),
    (lambda: LaurelPA(2)([A, A, A, A]), "list `[x, fx, *previous]` of 2 to 3 tensors. Received: 4 tensors"),
    (lambda: LaurelPA(previous="first")([A, A, A, A]), "`[x, fx, *previous]` of 2 to 3 tensors. Received: 4 tensors"),
    (lambda: Laurel()([A, A[:, :1]]), "inputs of one shape. Received: shapes=[(2, 4), (2, 1)]"),
    (lambda: Laurel()([A, A[:1]]), "inputs of one shape. Received: shapes=[(2, 4), (1, 4)]"),
    (lambda: Laurel()([A, A[None]]), "inputs of one shape. Received: shapes=[(2, 4), (1, 2, 4)]"),
    (lambda: Laurel(axis=2)([A, A]), "inputs with a channel axis 2. Received: shape=(2, 4)"),
    (lambda: Laurel(axis=-2)([A, A]), "inputs with a channel axis -2. Received: shape=(2, 4)"),
    (lambda: Laurel(rank=4)([A, A]), "channels above rank=4. Received: input_shape=(2, 4)"),
    (
        lambda: Laurel(rank=1)([keras.Input((3, None))] * 2),
        "number of channels (axis -1). Received: shape=(None, 3, None)",
    ),
    (
        lambda: Laurel(rank=1, norm="rms", axis=1)([keras.Input((None, 3))] * 2),
        "(axis 1). Received: shape=(None, None, 3)",
    ),
    (lambda: LowRank(1)(keras.Input((None,))), "above rank=1. Received: input_shape=(None, None)"),
    (lambda: keras_laurel.initializers.ColumnOrthogonal()((2, 3, 4)), "`(dim, rank)`. Received: shape=(2, 3, 4)"),
]


@pytest.mark.parametrize(("make", "message"), ERRORS, ids=[message[-40:] for _, message in ERRORS])
def test_error_names_what_was_expected_and_received(make, message):
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        make()
    assert "Received: " in str(error.value)


@pytest.mark.parametrize("count", [2, 4])
def test_call_with_another_number_of_inputs_than_the_first_raises(count):
    join = LaurelPA(3)
    join([A, A, A])
    with pytest.raises(ValueError, match=re.escape(f"of 3 tensors, as in the first call. Received: {count} tensors")):
        join([A] * count)


def test_call_with_other_shapes_than_each_other_raises_after_build():
    join = Laurel()
    join([A, A])
    with pytest.raises(ValueError, match=r"one shape. Received: shapes=\[\(2, 4\), \(1, 4\)\]"):
        join([A, A[:1]])


def test_any_number_of_channels_works_where_no_weight_depends_on_it():
    x = keras.Input((3, None))
    model = keras.Model(x, LaurelPA(1, residual_weights="softmax")([x, x]))
    assert to_numpy(model(ops.ones((1, 3, 5)))).tolist() == [[[2.0] * 5] * 3]


def test_image_model_with_joins_trains_under_fit():
    images = np.random.default_rng(0).normal(size=(16, 4, 4, 1)).astype("float32")
    labels = (images.mean(axis=(1, 2)) > 0).astype("float32")
    inputs = keras.Input((4, 4, 1))
    x = keras.layers.Conv2D(4, 3, padding="same")(inputs)
    history = keras_laurel.History()
    for block in range(2):
        fx = keras.layers.Conv2D(4, 3, padding="same", use_bias=False, name=f"block{block}_conv")(x)
        fx = keras.layers.BatchNormalization(name=f"block{block}_bn")(fx)
        fx = keras.layers.Activation("relu", name=f"block{block}_relu")(fx)
        x = history.join(Laurel("softmax", rank=2, num_activations=3, name=f"block{block}_join"), x, fx)
    model = keras.Model(inputs, keras.layers.Dense(1)(keras.layers.GlobalAveragePooling2D()(x)))
    model.compile(keras.optimizers.Adam(0.01), "mse")
    before = [to_numpy(weight) for weight in model.trainable_weights if "_join" in weight.path]
    losses = model.fit(images, labels, epochs=8, batch_size=8, verbose=0).history["loss"]
    assert losses[-1] < 0.8 * losses[0]
    after = [to_numpy(weight) for weight in model.trainable_weights if "_join" in weight.path]
    assert all(np.any(a != b) for a, b in zip(after, before))


def test_drop_path_scales_in_float32_under_half_precision():
    a = np.full((8, 4), 40000, "float16")
    join = Laurel(residual_weights="softmax", drop_path=0.5, seed=0, dtype="mixed_float16")
    y = to_numpy(join([a, -a], training=True))
    # x + 2 * fx = -40000 where the branch stays, x where it is dropped; twice 40000 is beyond float16
    assert set(np.unique(y)) == {-40000.0, 40000.0}


def test_numpy_integers_and_initializer_functions_are_taken():
    join = Laurel(rank=np.int64(2), num_activations=np.int64(2), down_initializer=lambda shape, dtype: np.ones(shape))
    join([np.ones((2, 4), "float32")] * 3)
    assert (type(join.rank), type(join.num_activations)) == (int, int)

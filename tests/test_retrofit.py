"""laurelize on functional models: the same outputs and weights, new joins."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_laurel
from keras_laurel.retrofit import laurelize

KINDS = ("add", "rw", "lr", "pa", "rw+lr", "rw+pa", "lr+pa", "rw+lr+pa")
X = np.random.default_rng(0).normal(size=(4, 6, 6, 3)).astype("float32")


def conv_net(num_blocks=3, dtype=None, nested=False):
    """A small ResNet that writes its joins both ways, with a dropout and a batch normalization in each branch."""
    keras.utils.set_random_seed(0)
    inputs = x = keras.Input((6, 6, 3))
    x = layers.Conv2D(4, 3, padding="same", dtype=dtype, name="stem")(x)
    for i in range(num_blocks):
        fx = layers.Conv2D(4, 3, padding="same", dtype=dtype, name=f"block{i}_conv")(x)
        fx = layers.BatchNormalization(moving_mean_initializer="ones", dtype=dtype, name=f"block{i}_bn")(fx)
        fx = layers.Dropout(0.1, dtype=dtype)(fx)
        x = fx + x if i == 1 else layers.Add(name=f"block{i}_add", dtype=dtype)([fx, x])
        x = layers.ReLU(dtype=dtype, name=f"block{i}_out")(x)
    x = layers.GlobalAveragePooling2D(dtype=dtype)(x)
    return keras.Model(inputs, layers.Dense(2, dtype=dtype, name="head")(x), name="net")


def outputs_of(model, x=X, **kwargs):
    return ops.convert_to_numpy(ops.cast(model(x, **kwargs), "float32"))


def assert_equal_outputs(a, b, x=X):
    np.testing.assert_array_equal(outputs_of(a, x), outputs_of(b, x))


def joins_of(model):
    return [layer for layer in model.layers if isinstance(layer, keras_laurel.Laurel)]


def randomize(model):
    random = np.random.default_rng(1)
    for weight in keras_laurel.laurel_weights(model):
        weight.assign(random.normal(size=weight.shape))


@pytest.mark.parametrize("kind", KINDS)
def test_outputs_are_unchanged(kind):
    model = conv_net()
    new = laurelize(model, kind, rank=2)
    assert_equal_outputs(model, new)
    np.testing.assert_allclose(new.predict(X, verbose=0), model.predict(X, verbose=0), rtol=1e-5)
    num_new = new.count_params() - model.count_params()
    per_join = {"rw": 2 * 3, "lr": 2 * 2 * 4 * 3, "pa": 1 + 2 + 3, "add": 0}
    if "pa" in kind and "lr" in kind:
        per_join["lr"] = 2 * 2 * 4 * (1 + 2 + 3)
    assert num_new == sum(per_join[part] for part in kind.split("+"))
    randomize(new)
    if kind != "add":
        assert not np.allclose(outputs_of(model), outputs_of(new))


def test_joins_are_named_after_the_adds():
    assert [join.name for join in joins_of(laurelize(conv_net()))] == ["block0_laurel", "laurel_0", "block2_laurel"]


def test_training_mode_draws_the_same_dropout():
    model = conv_net()
    new = laurelize(model)
    keras.utils.set_random_seed(1)  # torch draws from one generator for all layers, the others from each layer's own
    expected = outputs_of(model, training=True)
    keras.utils.set_random_seed(1)
    np.testing.assert_array_equal(outputs_of(new, training=True), expected)


def test_previous_activations_follow_the_equation():
    inputs = x = keras.Input((2,))
    for _ in range(3):
        x = layers.Add()([x, layers.Dense(2, use_bias=False)(x)])
    new = laurelize(keras.Model(inputs, x), "rw+pa", num_activations=2)
    randomize(new)
    states, values = [], np.random.default_rng(0).normal(size=(3, 2))
    y = values
    for join, dense in zip(joins_of(new), [layer for layer in new.layers if isinstance(layer, layers.Dense)]):
        alpha, beta = (float(v) for v in ops.convert_to_numpy(ops.stack(join.residual_weights.alpha_beta())))
        gamma = ops.convert_to_numpy(join.augmentation.gamma)
        states.insert(0, y)
        augmented = sum(g * state for g, state in zip(gamma, states))
        y = alpha * (y @ ops.convert_to_numpy(dense.kernel)) + beta * (y + augmented)
    np.testing.assert_allclose(outputs_of(new, values.astype("float32")), y, rtol=1e-4)


def test_histories_of_two_towers_do_not_mix():
    inputs = keras.Input((4,))
    towers = []
    for tower in "xy":
        x = inputs
        for i in range(3):
            x = layers.Add(name=f"{tower}{i}_add")([x, layers.Dense(4)(x)])
        towers.append(x)
    new = laurelize(keras.Model(inputs, towers), "pa")
    x, y = (ops.convert_to_numpy(value) for value in new(np.ones((1, 4))))
    for i in range(3):
        new.get_layer(f"x{i}_laurel").augmentation.gamma.assign(np.full(min(i + 1, 3), 0.5))
    new_x, new_y = (ops.convert_to_numpy(value) for value in new(np.ones((1, 4))))
    assert not np.allclose(x, new_x)
    np.testing.assert_array_equal(y, new_y)
    assert [new.get_layer(f"y{i}_laurel").num_inputs for i in range(3)] == [2, 3, 4]


def test_first_state():
    new = laurelize(conv_net(), "pa", previous="first")
    assert [join.num_inputs for join in joins_of(new)] == [2, 3, 3]
    assert_equal_outputs(conv_net(), new)


def test_the_original_stays_as_it_is():
    model = conv_net()
    before, config = outputs_of(model), model.get_config()
    new = laurelize(model, "rw", trainable="laurel")
    new.compile("sgd", "mse")
    new.fit(X, np.ones((4, 2)), verbose=0)
    np.testing.assert_array_equal(outputs_of(model), before)
    assert all(layer.trainable for layer in model.layers)
    assert not {id(weight) for weight in model.weights} & {id(weight) for weight in new.weights}
    assert model.get_config() == config


@pytest.mark.parametrize(
    "trainable",
    [
        "all",
        *(pytest.param(which, marks=pytest.mark.slow_on("tensorflow")) for which in ("laurel", "from_first_laurel")),
    ],
)
def test_fine_tuning_lowers_the_loss(trainable):
    model = conv_net()
    new = laurelize(model, "rw+lr", rank=2, trainable=trainable)
    frozen = {layer.name for layer in new.layers if layer.weights and not layer.trainable}
    base = {"stem", "block0_conv", "block0_bn"}
    later = {"block1_conv", "block1_bn", "block2_conv", "block2_bn", "head"}
    assert frozen == {"all": set(), "laurel": base | later, "from_first_laurel": base}[trainable]
    before = {weight.path: ops.convert_to_numpy(weight) for weight in new.weights}
    new.compile(keras.optimizers.Adam(0.03), "mse")
    losses = new.fit(X, np.ones((4, 2)), epochs=5, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    changed = {
        w.path.split("/")[-2] for w in new.weights if not np.array_equal(before[w.path], ops.convert_to_numpy(w))
    }
    assert not changed & frozen


def test_frozen_layers_stay_frozen():
    model = conv_net()
    model.get_layer("head").trainable = False
    assert not laurelize(model, trainable="from_first_laurel").get_layer("head").trainable


def test_save_and_clone(tmp_path):
    new = laurelize(conv_net(), "rw+lr+pa", rank=2, trainable="laurel")
    randomize(new)
    new.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert_equal_outputs(new, loaded)
    assert len(loaded.trainable_weights) == len(new.trainable_weights)
    clone = keras.models.clone_model(new)
    clone.set_weights(new.get_weights())
    assert_equal_outputs(new, clone)


def test_layer_outputs_belong_to_the_new_model():
    new = laurelize(conv_net())
    features = keras.Model(new.input, new.get_layer("block1_out").output)
    assert joins_of(features) == joins_of(new)[:2]


def test_nested_models():
    inner = conv_net()
    inputs = keras.Input((6, 6, 3))
    outer = keras.Model(inputs, layers.Dense(2)(inner(inputs)))
    new = laurelize(outer, trainable="laurel")
    assert_equal_outputs(outer, new)
    assert len(joins_of(new.get_layer("net"))) == 3
    assert len(new.trainable_weights) == 3
    sequential = keras.Sequential([keras.Input((6, 6, 3)), layers.Rescaling(0.5), inner, layers.Dense(2)])
    assert_equal_outputs(sequential, laurelize(sequential))


def test_layers_behind_a_nested_join_train():
    inputs = keras.Input((6, 6, 3))
    outer = keras.Model(inputs, layers.Dense(2, name="top")(conv_net()(layers.Conv2D(3, 1, name="low")(inputs))))
    new = laurelize(outer, trainable="from_first_laurel")
    assert new.get_layer("top").trainable
    assert not new.get_layer("low").trainable
    assert new.get_layer("net").get_layer("head").trainable
    assert not new.get_layer("net").get_layer("stem").trainable


def test_shared_layers_and_a_shared_add():
    inputs = x = keras.Input((4,))
    dense, add = layers.Dense(4, name="shared"), layers.Add()
    for _ in range(3):
        x = add([x, dense(x)])
    model = keras.Model(inputs, x)
    new = laurelize(model, "rw")
    assert_equal_outputs(model, new, np.ones((2, 4), "float32"))
    assert new.count_params() - model.count_params() == 6
    new.get_config()


def test_siamese():
    inner_inputs = keras.Input((4,))
    inner = keras.Model(inner_inputs, layers.Add()([inner_inputs, layers.Dense(4)(inner_inputs)]))
    a, b = keras.Input((4,), name="a"), keras.Input((4,), name="b")
    model = keras.Model({"a": a, "b": b}, {"distance": layers.Subtract()([inner(a), inner(b)])})
    new = laurelize(model)
    data = {"a": np.ones((2, 4), "float32"), "b": np.zeros((2, 4), "float32")}
    np.testing.assert_array_equal(
        ops.convert_to_numpy(new(data)["distance"]), ops.convert_to_numpy(model(data)["distance"])
    )
    assert new.count_params() - model.count_params() == 2


@pytest.mark.parametrize("with_plus", [True, False])
def test_masks_go_where_they_went(with_plus):
    tokens = keras.Input((5,), dtype="int32")
    x = layers.Embedding(7, 4, mask_zero=True)(tokens)
    fx = layers.Dense(4)(x)
    x = x + fx if with_plus else layers.Add()([x, fx])
    model = keras.Model(tokens, layers.GlobalAveragePooling1D()(x))
    ids = np.array([[1, 2, 3, 0, 0]])
    assert_equal_outputs(model, laurelize(model), ids)


@pytest.mark.parametrize("dtype", ["mixed_bfloat16", "bfloat16"])
def test_half_precision(dtype):
    model = conv_net(dtype=dtype)
    new = laurelize(model, "rw+lr", rank=2)
    assert all(join.compute_dtype == "bfloat16" and join.variable_dtype == "float32" for join in joins_of(new))
    assert_equal_outputs(model, new)


@pytest.mark.filterwarnings("ignore:.*does not have a `quantize` method implemented")  # Keras, for each such layer
def test_int8(tmp_path):
    inputs = x = keras.Input((4,))
    for _ in range(2):
        x = layers.Add()([x, layers.Dense(4)(x)])
    model = keras.Model(inputs, x)
    model.quantize("int8")
    new = laurelize(model, "rw+lr", rank=2, trainable="laurel")
    x = np.ones((2, 4), "float32")
    assert_equal_outputs(model, new, x)
    new.save(tmp_path / "model.keras")
    assert_equal_outputs(new, keras.models.load_model(tmp_path / "model.keras"), x)


def test_channels_first():
    inputs = keras.Input((4, 3, 5))
    fx = layers.BatchNormalization(axis=1)(inputs)
    model = keras.Model(inputs, layers.Add(name="add_1")([inputs, fx]))
    new = laurelize(model, "rw+lr", rank=2, per_channel=True)
    assert new.get_layer("laurel_0").residual_weights.logits.shape == (2, 4)
    assert_equal_outputs(model, new, np.random.default_rng(0).normal(size=(2, 4, 3, 5)).astype("float32"))


def test_arguments_reach_the_joins_and_a_callable_may_leave_some_plain():
    new = laurelize(conv_net(), "rw", residual_weights="sigmoid", drop_path=0.1)
    assert {(join.residual_weights.form, join.drop_path) for join in joins_of(new)} == {("sigmoid", 0.1)}

    def only_the_last(name, **kwargs):
        return keras_laurel.LaurelRW(name=name) if name == "block2_laurel" else layers.Add(name=name)

    assert [join.name for join in joins_of(laurelize(conv_net(), only_the_last))] == ["block2_laurel"]


def test_a_model_with_a_train_step_keeps_its_class():
    class Custom(keras.Model):
        def train_step(self, *args):
            raise NotImplementedError

    inputs = keras.Input((4,))
    assert type(laurelize(Custom(inputs, layers.Add()([inputs, layers.Dense(4)(inputs)])))) is Custom


def test_layers_without_a_config():
    class Plain(layers.Layer):
        def __init__(self, function):
            super().__init__(name="plain")
            self.function = function

        def call(self, x):
            return self.function(x)

    class Weighted(Plain):
        def build(self, input_shape):
            self.w = self.add_weight(shape=())

    inputs = keras.Input((4,))
    model = keras.Model(inputs, layers.Add()([inputs, Plain(ops.relu)(inputs)]))
    assert_equal_outputs(model, laurelize(model), np.ones((2, 4), "float32"))
    model = keras.Model(inputs, layers.Add()([inputs, Weighted(ops.relu)(inputs)]))
    with pytest.raises(ValueError, match=r"made anew from their config.*Received: layer 'plain' of class Weighted"):
        laurelize(model)


def test_what_cannot_be_rewired():
    class Subclassed(keras.Model):
        def call(self, x):
            return x + x

    inputs = keras.Input((4,))
    with pytest.raises(ValueError, match=r"functional model.*Received: 'mine' of class Subclassed"):
        laurelize(Subclassed(name="mine"))
    with pytest.raises(ValueError, match=r"functional model.*Received: 'None'"):
        laurelize(None)
    with pytest.raises(ValueError, match=r"built model.*Received: Sequential 'mine', not built"):
        laurelize(keras.Sequential([layers.Dense(4)], name="mine"))
    with pytest.raises(ValueError, match=r"Received: 'mine', which has none.*wrap=TheirClass"):
        laurelize(keras.Sequential([inputs, layers.Dense(4)], name="mine"))
    with pytest.raises(ValueError, match=r"which has none. It has LAuReL joins already"):
        laurelize(laurelize(conv_net()))
    with pytest.raises(ValueError, match=r"`trainable` to be one of.*Received: trainable='some'"):
        laurelize(conv_net(), trainable="some")


def test_resnet50():
    model = keras.applications.ResNet50(weights=None, input_shape=(32, 32, 3), classes=3)
    new = laurelize(model, "rw")
    assert new.count_params() - model.count_params() == 32
    x = np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype("float32")
    assert_equal_outputs(model, new, x)

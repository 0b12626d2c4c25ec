"""What the joins have learned, in the logs and in plots; weight decay."""

import csv

import keras
import numpy as np
import pytest
from keras import ops
from variants import randomize, to_numpy

import keras_laurel
from keras_laurel import Laurel, LaurelMonitor, LaurelPA, LaurelRW
from keras_laurel.monitoring import join_values, laurel_joins

X = np.random.default_rng(0).normal(size=(8, 4)).astype("float32")


def stack(**kwargs):
    inputs = x = keras.Input((4,))
    history = keras_laurel.History()
    for index in range(2):
        join = Laurel("softmax", rank=2, num_activations=2, norm="rms", name=f"join_{index}", **kwargs)
        x = history.join(join, x, keras.layers.Dense(4, "tanh")(x))
    model = keras.Model(inputs, x)
    model.compile(keras.optimizers.SGD(0.1), "mse")
    return model


def expected_values(join):
    """The values of a join of `stack`, from its weights and not from its layers' methods."""
    weights = {weight.path.split("/", 1)[1]: to_numpy(weight).astype("float64") for weight in join.trainable_weights}
    alpha, beta = 2 * np.exp(weights["residual_weights/logits"]) / np.sum(np.exp(weights["residual_weights/logits"]))
    values = {"alpha": alpha, "beta": beta, "gain": np.sqrt(np.mean(weights["gain"] ** 2))}
    for j, gamma in enumerate(weights["previous_activations/gamma"]):
        down = weights[f"previous_activations/low_rank/down_{j}/kernel"]
        up = weights["previous_activations/low_rank/up/kernel"][2 * j : 2 * j + 2]
        values |= {f"gamma_{j}": gamma, f"low_rank_norm_{j}": np.linalg.norm(down @ up)}
    return values


def test_values_equal_formulas_of_the_weights():
    for join in laurel_joins(stack()).values():
        randomize(join)
        assert join_values(join) == pytest.approx(expected_values(join), rel=64 * 2**-24)


def test_fit_logs_the_values_of_each_epochs_end():
    model = stack()
    start = model.get_weights()
    expected = []
    for epochs in (1, 2):
        model.set_weights(start)
        history = model.fit(X, X, epochs=epochs, shuffle=False, verbose=0, callbacks=[LaurelMonitor()]).history
        expected.append(
            {f"{j.name}/{k}": v for j in laurel_joins(model).values() for k, v in expected_values(j).items()}
        )
    assert len(expected[0]) == 2 * 3 + 2 + 4
    assert set(history) == {"loss", *expected[0]}
    for key in expected[0]:
        assert history[key] == pytest.approx([expected[0][key], expected[1][key]], rel=64 * 2**-24)
    assert all(history[f"join_1/{key}"][0] != history[f"join_1/{key}"][1] for key in ("alpha", "gain", "gamma_1"))


def test_callbacks_after_it_get_the_values_too(tmp_path):
    monitor = LaurelMonitor()
    callbacks = [monitor, keras.callbacks.CSVLogger(tmp_path / "log.csv")]
    stack().fit(X, X, epochs=2, verbose=0, callbacks=callbacks)
    with open(tmp_path / "log.csv") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["join_1/gamma_1"]) for row in rows] == [epoch["join_1"]["gamma_1"] for epoch in monitor.values]
    assert len(rows) == 2


def test_vectors_are_logged_as_means_over_the_channels():
    join = LaurelRW("free", per_channel=True)
    join.build([(2, 4)] * 2)
    join.residual_weights.logits.assign([[1, 2, 3, 6], [-1, 0, 0, 0]])
    assert join_values(join) == {"alpha": 3.0, "beta": -0.25}


def test_join_without_weights_has_no_values():
    join = Laurel()
    join.build([(2, 4)] * 2)
    assert join_values(join) == {}


class Block(keras.layers.Layer):
    """A join in a custom layer."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.join = LaurelRW(name="join")

    def call(self, x):
        return self.join([x, x])


def submodel(name):
    x = keras.Input((4,))
    return keras.Model(x, LaurelRW(name="join")([x, x]), name=name)


def test_joins_are_found_in_nested_models_and_custom_layers_in_order():
    x = keras.Input((4,))
    first, inner, block, last = LaurelRW(name="first"), submodel("inner"), Block(name="block"), LaurelRW(name="last")
    y = block(inner(first([x, x])))
    model = keras.Model(x, last([y, y]))
    expected = {"first": first, "inner/join": inner.layers[-1], "block/join": block.join, "last": last}
    assert list(laurel_joins(model).items()) == list(expected.items())


def test_shared_join_is_found_once():
    x, join = keras.Input((4,)), LaurelRW(name="join")
    y = join([x, x])
    assert laurel_joins(keras.Model(x, join([y, y]))) == {"join": join}


@pytest.mark.parametrize("make", [submodel, lambda name: Block(name=name)], ids=["models", "layers"])
def test_joins_of_one_name_in_different_parts_are_all_logged(make):
    x, parts = keras.Input((4,)), [make("one"), make("two")]
    model = keras.Model(x, parts[1](parts[0](x)))
    model.compile("sgd", "mse")
    history = model.fit(X, X, verbose=0, callbacks=[LaurelMonitor()]).history
    assert len([key for key in history if key.endswith("/alpha")]) == 2


def test_plot_shows_each_value_over_depth_and_writes_a_file(tmp_path):
    model, monitor = stack(), LaurelMonitor()
    model.fit(X, X, verbose=0, callbacks=[monitor])
    figure = monitor.plot(tmp_path / "depth.png")
    assert (tmp_path / "depth.png").read_bytes().startswith(b"\x89PNG")
    lines = {line.get_label(): line for axes in figure.axes for line in axes.get_lines()}
    assert set(lines) == set(monitor.values[0]["join_0"]) | set(monitor.values[0]["join_1"])
    assert list(lines["alpha"].get_ydata()) == [values["alpha"] for values in monitor.values[0].values()]
    assert list(lines["gamma_1"].get_xdata()) == [1]  # the first join sees one state only


def test_plot_without_an_epoch_or_a_join_raises():
    with pytest.raises(ValueError, match="Nothing to plot"):
        LaurelMonitor().plot()
    monitor, x = LaurelMonitor(), keras.Input((4,))
    model = keras.Model(x, keras.layers.Dense(4)(x))
    model.compile("sgd", "mse")
    assert set(model.fit(X, X, verbose=0, callbacks=[monitor]).history) == {"loss"}
    with pytest.raises(ValueError, match="Nothing to plot"):
        monitor.plot()


def test_weight_decay_leaves_laurel_weights_and_reaches_the_others():
    model = stack()
    randomize(model)
    extra = model.layers[1].bias
    optimizer = keras.optimizers.AdamW(learning_rate=1.0, weight_decay=0.1)
    keras_laurel.exclude_from_weight_decay(optimizer, model, var_list=[extra])
    before = {weight.path: to_numpy(weight) for weight in model.trainable_weights}
    optimizer.apply([ops.zeros(weight.shape) for weight in model.trainable_weights], model.trainable_weights)
    for weight in model.trainable_weights:
        factor = 1.0 if "join" in weight.path or weight is extra else 0.9
        assert to_numpy(weight) == pytest.approx(factor * before[weight.path], rel=4 * 2**-24)


def test_further_names_are_excluded_from_weight_decay():
    model = stack()
    randomize(model)
    optimizer = keras.optimizers.AdamW(learning_rate=1.0, weight_decay=0.1)
    keras_laurel.exclude_from_weight_decay(optimizer, model, var_names=["bias"])
    dense = model.layers[1]
    bias, kernel = to_numpy(dense.bias), to_numpy(dense.kernel)
    optimizer.apply([ops.zeros(weight.shape) for weight in model.trainable_weights], model.trainable_weights)
    assert np.array_equal(to_numpy(dense.bias), bias)
    assert np.all(to_numpy(dense.kernel) != kernel)


def test_weight_decay_of_an_unbuilt_model_raises():
    with pytest.raises(ValueError, match=r"Expected a built model.*Received: unbuilt"):
        keras_laurel.exclude_from_weight_decay(keras.optimizers.AdamW(), keras.Sequential([LaurelPA()], name="unbuilt"))


def test_weight_decay_of_a_built_optimizer_raises():
    model, optimizer = stack(), keras.optimizers.AdamW()
    optimizer.build(model.trainable_weights)
    with pytest.raises(ValueError, match="optimizer"):
        keras_laurel.exclude_from_weight_decay(optimizer, model)


def test_laurel_weights_are_those_of_the_joins():
    model = stack()
    paths = [weight.path for weight in keras_laurel.laurel_weights(model)]
    assert paths == [weight.path for weight in model.trainable_weights if "join" in weight.path]
    assert len(paths) == 5 + 6


def test_weight_decay_is_excluded_below_a_loss_scale_and_for_frozen_joins():
    x = keras.Input((4,))
    join, dense = LaurelRW("free"), keras.layers.Dense(4, kernel_initializer="ones", use_bias=False)
    model = keras.Model(x, dense(join([x, x])))
    join.trainable = False
    optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1, weight_decay=0.5))
    keras_laurel.exclude_from_weight_decay(optimizer, model)
    join.trainable = True
    inner = optimizer.inner_optimizer
    inner.build(model.trainable_variables)
    inner.apply([keras.ops.zeros(weight.shape) for weight in model.trainable_variables])
    assert to_numpy(join.residual_weights.logits).tolist() == [1.0, 1.0]
    assert np.all(to_numpy(dense.kernel) < 1)


def test_weight_decay_is_turned_off_where_only_joins_are_trained():
    x = keras.Input((4,))
    model = keras.Model(x, LaurelRW("free")([x, x]))
    optimizer = keras.optimizers.AdamW(0.1, weight_decay=0.5)
    keras_laurel.exclude_from_weight_decay(optimizer, model)
    optimizer.build(model.trainable_variables)
    optimizer.apply([keras.ops.zeros(weight.shape) for weight in model.trainable_variables])
    assert to_numpy(model.trainable_variables[0]).tolist() == [1.0, 1.0]

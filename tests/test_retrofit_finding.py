"""Which adds are joins, and which of their inputs is the skip."""

import contextlib

import keras
import numpy as np
import pytest
from keras import layers

from keras_laurel.retrofit import find_joins, laurelize

FAMILIES = {
    # name: (joins, replaced, its skip, its branch)
    "ResNet50": (16, "conv3_block1_add", "conv3_block1_0_bn", "conv3_block1_3_bn"),
    "ResNet101": (33, "conv4_block23_add", "conv4_block22_out", "conv4_block23_3_bn"),
    "ResNet50V2": (16, "conv2_block2_out", "conv2_block1_out", "conv2_block2_3_conv"),
    "EfficientNetV2B0": (15, "block6h_add", "block6g_add", "block6h_drop"),
    "MobileNetV2": (10, "block_2_add", "block_1_project_BN", "block_2_project_BN"),
    "ConvNeXtTiny": (18, None, "convnext_tiny_stem", "convnext_tiny_stage_0_block_0_identity"),
}


@contextlib.contextmanager
def graphs_alone():
    """Models made here have no values: filling the weights of the big families is what takes long."""
    with keras.StatelessScope(initialize_variables=False):
        yield
    keras.utils.clear_session()  # forgets the variables that wait for their values


@pytest.mark.parametrize("name", FAMILIES)
def test_families(name):
    num_joins, replaced, skip, branch = FAMILIES[name]
    with graphs_alone():
        model = getattr(keras.applications, name)(weights=None, input_shape=(32, 32, 3))
        report = find_joins(model)
    assert len(report.joins) == num_joins
    assert not report.left_alone
    join = next(join for join in report.joins if replaced in (None, join.replaces))
    assert (join.skip, join.branch) == (skip, branch)


def test_resnet50_history_starts_anew_with_each_shape():
    with graphs_alone():
        model = keras.applications.ResNet50(weights=None, input_shape=(32, 32, 3))
        report = find_joins(model)
    assert [join.num_previous for join in report.joins] == [0, 1, 2, 0, 1, 2, 3, 0, 1, 2, 3, 4, 5, 0, 1, 2]
    assert report.joins[0].name == "conv2_block1_laurel"
    assert report.joins[0].shape == (None, 8, 8, 256)


def test_history_starts_anew_where_only_an_unknown_size_changes():
    # ResNet50V2 halves the size by a pooled skip, which shapes of None do not show.
    with graphs_alone():
        known = find_joins(keras.applications.ResNet50V2(weights=None, input_shape=(64, 64, 3), include_top=False))
        unknown = find_joins(keras.applications.ResNet50V2(weights=None, include_top=False))
    assert [join.num_previous for join in unknown.joins] == [join.num_previous for join in known.joins]


def block(x, name=None, skip_first=True):
    fx = layers.Dense(x.shape[-1], "relu")(x)
    return layers.Add(name=name)([x, fx] if skip_first else [fx, x])


def reasons(model):
    return [entry.reason for entry in find_joins(model).left_alone]


@pytest.mark.parametrize("skip_first", [True, False])
def test_skip_is_not_the_first_input_but_the_ancestor(skip_first):
    inputs = keras.Input((4,), name="x")
    join = find_joins(keras.Model(inputs, block(inputs, "mlp_add", skip_first))).joins[0]
    assert (join.name, join.replaces, join.kind, join.shape) == ("mlp_laurel", "mlp_add", "Add", (None, 4))
    assert join.skip == "x"


@pytest.mark.parametrize("skip_first", [True, False])
def test_projection_shortcut(skip_first):
    inputs = keras.Input((4,))
    short = layers.Dense(6, name="short")(inputs)
    long = layers.Dense(6, name="long")(layers.Dense(6)(inputs))
    outputs = short + long if skip_first else long + short
    join = find_joins(keras.Model(inputs, outputs)).joins[0]
    assert (join.kind, join.skip, join.branch) == ("+", "short", "long")


def test_position_embeddings_are_no_branches():
    class PositionEmbedding(layers.Layer):  # as in keras_hub: takes the tokens' embedding for its shape
        def call(self, x):
            return keras.ops.ones_like(x)

    tokens = keras.Input((3,), dtype="int32")
    x = layers.Embedding(5, 4)(tokens)
    model = keras.Model(tokens, layers.Add(name="position")([x, PositionEmbedding()(x)]))
    assert reasons(model) == ["joins no branch to its own input"]
    with pytest.raises(ValueError, match=r"(?s)which has none.*joins no branch"):
        laurelize(model)


def test_two_embeddings_are_no_join():
    tokens = keras.Input((3,), dtype="int32")
    x = layers.Embedding(5, 4)(tokens) + layers.Dense(4)(layers.Embedding(5, 4)(tokens))
    assert reasons(keras.Model(tokens, x)) == ["joins no branch to its own input"]


def test_adds_that_are_left_alone():
    x, other = keras.Input((4,)), keras.Input((4,))
    row = keras.Input((1,))
    index = keras.Input((4,), dtype="int32")
    outputs = [
        x + 1.0,
        x + np.ones((4,), "float32"),
        x + x,
        x + row,
        index + keras.ops.negative(index),
        x + other,
        layers.Dense(4)(x) + layers.Dense(4)(x),
        layers.Add()([x, other, layers.Dense(4)(x)]),
    ]
    assert reasons(keras.Model([x, other, row, index], outputs)) == [
        "adds a constant",
        "adds a constant",
        "adds a tensor to itself",
        "broadcasts (None, 4) and (None, 1)",
        "adds int32 and int32",
        "joins no branch to its own input",
        "joins two branches of one length",
        "adds 3 tensors",
    ]


def test_two_towers():
    inputs = x = y = keras.Input((4,))
    x = layers.Dense(4, name="stem_x")(x)
    for i in range(3):
        x = block(x, f"x{i}_add")
    for i in range(2):
        y = block(y, f"y{i}_add")
    report = find_joins(keras.Model(inputs, layers.Add(name="merge")([x, y])))
    assert [(join.name, join.num_previous, join.skip) for join in report.joins] == [
        ("x0_laurel", 0, "stem_x"),
        ("x1_laurel", 1, "x0_add"),
        ("x2_laurel", 2, "x1_add"),
        ("y0_laurel", 0, inputs._keras_history.operation.name),
        ("y1_laurel", 1, "y0_add"),
    ]
    (merge,) = report.left_alone
    assert "joins of their own" in merge.reason


def test_streams_that_part_share_their_past():
    inputs = keras.Input((4,))
    stem = block(inputs, "stem_add")
    outputs = [block(block(stem, f"{tower}0_add"), f"{tower}1_add") for tower in "xy"]
    report = find_joins(keras.Model(inputs, outputs))
    assert {join.name: join.num_previous for join in report.joins} == {
        "stem_laurel": 0,
        "x0_laurel": 1,
        "x1_laurel": 2,
        "y0_laurel": 1,
        "y1_laurel": 2,
    }


def test_history_passes_a_gate():
    inputs = keras.Input((4,))
    x = block(inputs)
    x = layers.Multiply()([x, layers.Dense(4, "sigmoid")(x)])
    assert find_joins(keras.Model(inputs, block(x))).joins[1].num_previous == 1


def test_history_ends_where_streams_are_concatenated():
    inputs = keras.Input((4,))
    x = layers.Concatenate()([layers.Dense(2)(block(inputs)), layers.Dense(2)(inputs)])
    assert find_joins(keras.Model(inputs, block(x))).joins[1].num_previous == 0


def test_nested_models():
    inner_inputs = keras.Input((4,))
    inner = keras.Model(inner_inputs, block(block(inner_inputs, "a_add"), "b_add"), name="inner")
    sequential = keras.Sequential([keras.Input((4,)), inner], name="outer")
    report = find_joins(sequential)
    assert [(join.name, join.num_previous) for join in report.joins] == [
        ("inner/a_laurel", 0),
        ("inner/b_laurel", 1),
    ]


def test_joins_nested_in_a_class_with_its_own_constructor_are_left_alone():
    inner_inputs = keras.Input((4,))
    inner = keras.Model(inner_inputs, block(inner_inputs), name="inner")

    class Own(keras.Model):
        def __init__(self):
            inputs = keras.Input((4,))
            super().__init__(inputs, block(inner(inputs), "outer_add"))

    report = find_joins(Own())
    assert [join.name for join in report.joins] == ["outer_laurel"]
    assert [entry.name for entry in report.left_alone] == ["inner"]


def test_names_of_joins_are_unique():
    inputs = keras.Input((4,))
    x = block(block(inputs, "a_add"), "a")
    x = layers.Dense(4, name="laurel_0")(x)
    x = x + layers.Dense(4)(x)
    names = [join.name for join in find_joins(keras.Model(inputs, x)).joins]
    assert names == ["a_laurel", "a__laurel", "laurel_1"]


@pytest.mark.parametrize(("axis", "expected"), [(1, 1), (-1, -1), (3, -1)])
def test_channel_axis_is_that_of_the_branch(axis, expected):
    inputs = keras.Input((3, 5, 4))
    outputs = layers.Add(name="join_add")([inputs, layers.BatchNormalization(axis=axis)(inputs)])
    new = laurelize(keras.Model(inputs, outputs))
    assert new.get_layer("join_laurel").axis == expected


def test_str_is_a_table():
    inputs = keras.Input((4,), name="x")
    report = find_joins(keras.Model(inputs, block(inputs, "mlp_add") + 1.0))
    lines = str(report).splitlines()
    assert lines[0].split() == ["join", "replaces", "kind", "shape", "previous", "skip", "branch"]
    assert lines[1].split()[:3] == ["mlp_laurel", "mlp_add", "Add"]
    assert lines[4].endswith("adds a constant")


def test_dry_run_is_find_joins():
    inputs = keras.Input((4,))
    model = keras.Model(inputs, block(inputs))
    assert laurelize(model, dry_run=True) == find_joins(model)

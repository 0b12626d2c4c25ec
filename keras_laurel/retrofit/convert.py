"""`laurelize`: a model's residual joins become LAuReL joins, its weights are kept."""

from typing import Any

import keras

from keras_laurel.joins import residual as make_residual
from keras_laurel.layers import Laurel
from keras_laurel.retrofit.finding import Plan
from keras_laurel.retrofit.graph import Graph
from keras_laurel.retrofit.laurelized import Rewiring, make_laurelized
from keras_laurel.retrofit.models import (
    copy_layer,
    copy_state,
    graph_of,
    has_own_constructor,
    is_functional,
    sublayers,
)
from keras_laurel.retrofit.rewiring import rewire
from keras_laurel.retrofit.trainable import WORDS, set_trainable


def laurelize(
    model,
    residual="rw",
    *,
    rank=None,
    num_activations=None,
    wrap=None,
    trainable="all",
    dry_run=False,
    **kwargs,
) -> Any:
    """Returns a copy of `model` whose residual joins are LAuReL joins, with the same weights and outputs.

    Each `keras.layers.Add` of two tensors and each `+` between two tensors of one shape is a join if one of the two,
    the skip `x`, is what the other, the branch `f(x)`, was computed from. If neither is, `x` is the one on the shorter
    path from what both were computed from, the projection shortcut of a ResNet. All other adds are left alone;
    `find_joins` tells why.

    A new join returns `x + f(x)` exactly, so the new model starts from the old outputs: bit for bit when it is called,
    while a compiler, as in `predict`, may fuse the new graph in another way and so change the last bits.

    The new model has layers and weights of its own: `model` stays as it is. It is not compiled (a keras_hub task
    compiles itself, by its defaults). Joins are named after
    the `Add` that they replace (`conv2_block1_add`: `conv2_block1_laurel`), or numbered where that has no name of
    its own (`laurel_0`). Each computes in the dtype of the tensors that it joins.

    With previous activations, a join weighs the inputs of the joins before it in its own stream, from where the
    stream last changed its shape; no state passes into a nested model or out of it.

    Models of a class with its own constructor, such as keras_hub's backbones, stay of that class, and a keras_hub task
    is made anew on its retrofitted backbone. Their blocks hide their joins: name them to `wrap`.

    Args:
        model: A functional model, nested ones included, a built `Sequential`, or a keras_hub backbone or task.
        residual: `"rw"`, `"lr"`, `"pa"` or a sum such as `"rw+lr"`, or a callable that makes a layer for each join:
            see `keras_laurel.residual`. It gets `name`, `axis` and `dtype`, so it can leave some joins plain.
        rank: Rank of the low-rank maps, for words with `lr`. Defaults to 16.
        num_activations: Number k of states weighed, for words with `pa`. Defaults to 3.
        wrap: Blocks to wrap as a whole by `LaurelWrapper`, since they hide their joins: a layer class, a tuple of
            classes, or a predicate on layers.
        trainable: What can be trained, of what can be trained in `model`: `"all"`; `"laurel"`, just the LAuReL
            weights (frozen batch normalizations then use their moving averages in training too); or
            `"from_first_laurel"`, the joins and the layers behind the first.
        dry_run: If true, just returns `find_joins(model, wrap)`.
        **kwargs: Other arguments of `keras_laurel.residual`, such as `residual_weights` and `drop_path`.

    Returns:
        The new model, or the `Report` of a dry run.

    Raises:
        ValueError: If `model` does not show its graph or has no joins, if `wrap` meets no layer, or one that cannot be
            wrapped, or if a layer cannot be copied by its config.

    Example:
    >>> inputs = x = keras.Input((8,))
    >>> for _ in range(3):
    ...     x = keras.layers.Add()([keras.layers.Dense(8, "relu")(x), x])
    >>> model = keras.Model(inputs, x)
    >>> new = keras_laurel.laurelize(model, "rw")
    >>> new.count_params() - model.count_params()
    6
    >>> x = np.ones((2, 8), "float32")
    >>> np.array_equal(ops.convert_to_numpy(new(x)), ops.convert_to_numpy(model(x)))
    True
    """
    if trainable not in WORDS:
        raise ValueError(f"Expected `trainable` to be one of {WORDS}. Received: trainable={trainable!r}")
    report = find_joins(model, wrap)
    if dry_run:
        return report
    if not report.joins:
        raise ValueError(
            f"Expected a model with residual joins. Received: '{model.name}', which has none.{_why(model, report)}"
        )

    def make_join(place):
        own = {"axis": place.axis, "dtype": place.dtype, **kwargs, "name": place.name}
        return make_residual(residual, rank=rank, num_activations=num_activations, **own)

    joins = []
    new = _retrofit(model, _predicate(wrap), make_join, joins)
    set_trainable(new, joins, trainable)
    return new


def find_joins(model, wrap=None):
    """Finds the residual joins that `laurelize` would make LAuReL joins.

    Args:
        model: See `laurelize`.
        wrap: See `laurelize`.

    Returns:
        A `Report`: `joins`, and `left_alone` with the reasons. Its `str` is a table.

    Raises:
        ValueError: As `laurelize`, except that a model without joins is fine.

    Example:
    >>> x = keras.Input((8,), name="x")
    >>> y = keras.layers.Add(name="mlp_add")([keras.layers.Dense(8, name="mlp")(x), x])
    >>> print(keras_laurel.find_joins(keras.Model(x, y)))
    join        replaces  kind  shape      previous  skip  branch
    mlp_laurel  mlp_add   Add   (None, 8)  0         x     mlp
    """
    wraps = _predicate(wrap)
    report = Plan(*_graph_of(model), wraps, nested=not (_is_task(model) or has_own_constructor(model))).report()
    if wrap is not None and all(join.kind in ("Add", "+") for join in report.joins):
        raise ValueError(
            f"Expected `wrap` to meet a layer in the graph of '{model.name}'. "
            f"Received: wrap={wrap}, which meets none.{_why(model, report)}"
        )
    return report


def _predicate(wrap):
    if wrap is None:
        return lambda layer: False
    if isinstance(wrap, (type, tuple)):
        return lambda layer: isinstance(layer, wrap)
    return wrap


def _is_task(model):
    """Whether `model` is a keras_hub task: a head on a backbone, by whose attributes it decodes."""
    has_parts = isinstance(getattr(model, "backbone", None), keras.Model) and hasattr(model, "preprocessor")
    return has_parts and is_functional(model)


def _graph_of(model):
    """Returns the graph that the joins of `model` are in; raises a `ValueError` if there is none."""
    if _is_task(model):
        return _graph_of(model.backbone)
    if isinstance(model, keras.Layer) and is_functional(model):
        return graph_of(model)
    name = getattr(model, "name", model)
    if isinstance(model, keras.Sequential):
        raise ValueError(
            "Expected a built model: give a `Sequential` a `keras.Input` first, or call it on data. "
            f"Received: Sequential '{name}', not built"
        )
    raise ValueError(
        "Expected a functional model, whose graph shows its joins. Make the layers of a subclassed model join by "
        "`keras_laurel.residual(...)([x, fx])` instead of `x + fx`, or draw it as `keras.Model(inputs, outputs)`. "
        f"Received: '{name}' of class {type(model).__name__}"
    )


def _why(model, report):
    """Returns what a user can do about a model in which nothing was found."""
    if any(isinstance(layer, Laurel) for layer in sublayers(model)):
        return " It has LAuReL joins already: laurelize the model that it was made from."
    if report.left_alone:
        return f" What was left alone:\n{report}"
    return " Blocks that add their input to their output inside can be wrapped as a whole: `wrap=TheirClass`."


def _retrofit(model, wrap, make_join, joins):
    """Returns the retrofitted copy of `model`, and adds its new layers to `joins`."""
    if _is_task(model):
        return _retrofit_task(model, wrap, make_join, joins)
    if has_own_constructor(model):
        return _retrofit_by_constructor(model, wrap, make_join, joins)
    inputs, outputs = graph_of(model)
    plan = Plan(inputs, outputs, wrap)
    copies = {}

    def copy_of(operation):
        if not isinstance(operation, keras.Layer):
            return operation  # without state: one can serve both models
        if id(operation) not in copies:
            if id(operation) in plan.nested:
                copies[id(operation)] = operation, _retrofit(operation, wrap, make_join, joins)
            else:
                copies[id(operation)] = operation, copy_layer(operation)
        return copies[id(operation)][1]

    new, new_joins = rewire(plan, make_join, copy_of)
    joins += new_joins
    for key, (layer, copy) in copies.items():
        if key not in plan.nested:
            copy_state(layer, copy)
    cls = keras.Model if isinstance(model, keras.Sequential) else type(model)
    return cls(*keras.tree.map_structure(new, (inputs, outputs)), name=model.name)


def _retrofit_by_constructor(model, wrap, make_join, joins):
    rewiring = Rewiring(wrap, make_join)
    try:
        new = make_laurelized(type(model), rewiring, model.get_config())
    except (AttributeError, NotImplementedError, TypeError) as error:
        raise ValueError(
            "Expected a model that can be made anew from its `get_config()`. If its attributes and methods are not "
            "needed, laurelize `keras.Model(model.input, model.output)`, a plain model of the same graph. Received: "
            f"'{model.name}' of class {type(model).__name__}, which cannot: {error}"
        ) from error
    for old, drawn in zip(Graph(*graph_of(model)).calls, rewiring.plan.graph.calls):
        if isinstance(old.operation, keras.Layer):
            copy_state(old.operation, drawn.operation)
    joins += rewiring.joins
    return new


def _retrofit_task(model, wrap, make_join, joins):
    backbone = _retrofit(model.backbone, wrap, make_join, joins)
    config = {**model.get_config(), "backbone": backbone, "preprocessor": model.preprocessor}
    new = type(model).from_config(config)
    for layer in model.layers:
        # An input has no state, and another name in each model.
        if layer is not model.backbone and not isinstance(layer, keras.layers.InputLayer):
            copy_state(layer, new.get_layer(layer.name))
    return new

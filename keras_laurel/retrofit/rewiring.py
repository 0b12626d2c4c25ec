"""Draws the graph of a model anew, with LAuReL joins in their places."""

import keras

from keras_laurel.history import History
from keras_laurel.retrofit.wrapper import LaurelWrapper


def rewire(plan, make_join, operation_for):
    """Draws the graph of `plan` anew, from the same inputs.

    Args:
        plan: A `Plan`.
        make_join: Callable that takes a `Place` and returns a new layer to join `[x, fx, *previous]` there.
        operation_for: Callable that takes an operation and returns the one to call in its place.

    Returns:
        Tuple `(new, joins)`: a function that returns the new tensor for an old one (and all else as it is), and the
        list of new layers in the order of the graph.
    """
    tensors, joins = {}, []

    def new(value):
        return tensors.get(id(value), value) if isinstance(value, keras.KerasTensor) else value

    for call in plan.graph.calls:
        args, kwargs = keras.tree.map_structure(new, (call.arguments.args, call.arguments.kwargs))
        place = plan.places.get(id(call))
        if place is None:
            results = operation_for(call.operation)(*args, **kwargs)
        else:
            layer = make_join(place)
            history = History()
            history.states = [new(state) for state in place.states]
            if place.wrapped:
                previous = history.previous(layer)
                layer = _wrap(operation_for(call.operation), call.operation, layer, place, len(previous))
                results = layer(*args, **kwargs, **({"previous": previous} if previous else {}))
            else:
                x, fx = new(place.x), new(place.fx)
                if place.kind == "+":
                    x, fx = _without_mask(x), _without_mask(fx)
                results = history.join(layer, x, fx)
            joins.append(layer)
        tensors.update(zip(map(id, call.outputs), keras.tree.flatten(results)))
    return new, joins


def _without_mask(x):
    # A `+` loses the Keras mask of its inputs, a layer would hand it on to layers that have not seen it so far.
    return x if getattr(x, "_keras_mask", None) is None else keras.ops.copy(x)


def _wrap(block, original, join, place, num_previous):
    if not block.built:
        block.build_from_config(original.get_build_config())
    return LaurelWrapper(block, join, num_previous, name=place.name, dtype=place.dtype)

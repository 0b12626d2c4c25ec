"""Which weights of a retrofitted model are trained."""

from keras_laurel.retrofit.graph import Graph
from keras_laurel.retrofit.models import graph_of, is_functional
from keras_laurel.retrofit.wrapper import LaurelWrapper

WORDS = ("all", "laurel", "from_first_laurel")


def set_trainable(model, joins, word):
    """Freezes the layers of `model` that `word` leaves out; none is made trainable that was not.

    Args:
        model: A retrofitted model.
        joins: Its new layers.
        word: `"all"` freezes nothing, `"laurel"` all but the joins' own weights, `"from_first_laurel"` the layers that
            take nothing from a join: those before the first join, and the branch that it adds.
    """
    if word == "all":
        return
    layers, after = {}, set()
    _visit(model, {id(join) for join in joins}, False, layers, after)
    for key, layer in layers.items():
        if word == "laurel" or key not in after:
            layer.trainable = False


def _visit(model, joins, reached, layers, after):
    """Adds the layers of `model` other than its joins to `layers`, and the `id` of those behind a join to `after`.

    Returns:
        Whether the outputs of `model` are behind a join.
    """
    graph = Graph(*graph_of(model))
    behind = {id(tensor) for tensor in graph.inputs} if reached else set()
    for call in graph.calls:
        layer = call.operation
        call_reached = any(id(tensor) in behind for tensor in call.input_tensors)
        results_reached = call_reached or id(layer) in joins
        if is_functional(layer):
            results_reached |= _visit(layer, joins, call_reached, layers, after)
        elif id(layer) not in joins or isinstance(layer, LaurelWrapper):
            layer = getattr(layer, "layer", layer) if id(layer) in joins else layer
            layers[id(layer)] = layer
            if call_reached:
                after.add(id(layer))
        if results_reached:
            behind.update(map(id, call.outputs))
    return any(id(tensor) in behind for tensor in graph.outputs)

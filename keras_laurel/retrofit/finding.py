"""Finds the residual joins of a functional model in its graph."""

import re
from dataclasses import dataclass
from typing import Any

import keras
from keras.src.ops.numpy import Add as PlusOperation  # what `+` makes in a graph; not exported

from keras_laurel.layers import Laurel
from keras_laurel.retrofit.graph import Graph
from keras_laurel.retrofit.models import graph_of, has_own_constructor, is_functional, sublayers
from keras_laurel.retrofit.report import Join, LeftAlone, Report
from keras_laurel.retrofit.wrapper import LaurelWrapper, stream_of


@dataclass(eq=False)
class Place:
    """Where a LAuReL join goes: the call that it replaces or wraps, and the tensors that it joins."""

    name: str
    kind: str
    call: Any
    x: Any
    fx: Any  # a wrapped block's output, which is x + f(x)
    states: list  # the inputs of the joins before it in its stream, oldest first
    axis: int
    wrapped: bool = False

    @property
    def dtype(self):
        """The dtype policy of the join: it computes as what it replaces, with weights in float32 or wider."""
        dtype = getattr(self.call.operation, "compute_dtype", self.call.outputs[0].dtype)
        return {"bfloat16": "mixed_bfloat16", "float16": "mixed_float16"}.get(dtype, dtype)


class Plan:
    """The places for LAuReL joins in a model.

    Args:
        inputs: Structure of the symbolic inputs.
        outputs: Structure of the symbolic outputs.
        wrap: Predicate of the layers to wrap whole.
        nested: Whether joins of nested models can be reached.

    Attributes:
        places: Dictionary of the `id` of a call to its `Place`, in the order of the graph.
        nested: Dictionary of the `id` of a nested model to its plan.
        left_alone: List of `LeftAlone`.
    """

    def __init__(self, inputs, outputs, wrap, nested=True):
        self.graph = Graph(inputs, outputs)
        self.places, self.nested, self.left_alone = {}, {}, []
        self._report = []  # joins of this graph and reports of nested ones, in the order of the graph
        self._names = {call.operation.name for call in self.graph.calls}
        self._num_unnamed = 0
        num_calls = {}
        for call in self.graph.calls:
            num_calls[id(call.operation)] = num_calls.get(id(call.operation), 0) + 1
        seen = set()
        for call in self.graph.calls:
            operation = call.operation
            if isinstance(operation, (keras.layers.Add, PlusOperation)):
                self._add_join(call)
            elif not isinstance(operation, keras.Layer) or id(operation) in seen:
                continue
            elif wrap(operation):
                self._add_block(call, num_calls[id(operation)])
            elif is_functional(operation):
                self._add_nested(
                    operation, Plan(*graph_of(operation), wrap, not has_own_constructor(operation)), nested
                )
            elif not isinstance(operation, (Laurel, LaurelWrapper)):
                self._note_hidden(operation, wrap)
            seen.add(id(operation))

    def _add_join(self, call):
        kind = "Add" if isinstance(call.operation, keras.layers.Add) else "+"
        found = self._skip_and_branch(call.input_tensors, kind)
        if isinstance(found, str):
            self.left_alone.append(LeftAlone(call.operation.name, kind, found))
        else:
            makers = self.graph.makers(self.graph.steps_back(found[1]))
            self._add(call, kind, *found, _channel_axis([maker.operation for maker in makers], found[0]))

    def _skip_and_branch(self, tensors, kind):
        """Returns which of two tensors is the skip and which the branch, or why they are no such two."""
        if len(tensors) != 2:
            return "adds a constant" if len(tensors) == 1 else f"adds {len(tensors)} tensors"
        a, b = tensors
        if a is b:
            return "adds a tensor to itself"
        if a.shape != b.shape:
            return f"broadcasts {a.shape} and {b.shape}"
        is_float = keras.backend.is_float_dtype(a.dtype) and keras.backend.is_float_dtype(b.dtype)
        if not is_float or (a.dtype != b.dtype and kind == "+"):  # an `Add` casts its inputs to one dtype
            return f"adds {a.dtype} and {b.dtype}"
        from_a, from_b = self.graph.steps_back(a), self.graph.steps_back(b)
        if id(a) in from_b:
            return a, b
        if id(b) in from_a:
            return b, a
        common = from_a.keys() & from_b.keys()
        if not common:
            return "joins no branch to its own input"
        nearest = min(common, key=lambda tensor: from_a[tensor] + from_b[tensor])
        if from_a[nearest] == from_b[nearest]:
            return "joins two branches of one length"
        x, fx, steps = (a, b, from_a) if from_a[nearest] < from_b[nearest] else (b, a, from_b)
        for place in self.places.values():
            made = place.call.outputs[0]
            if 0 < steps.get(id(made), 0) < steps[nearest] and nearest in self.graph.steps_back(made):
                return f"joins two branches that have joins of their own, such as {place.call.operation.name}"
        return x, fx

    def _add_block(self, call, num_calls):
        block = call.operation
        if num_calls > 1:
            raise ValueError(
                "Expected a wrapped block to be called once in its model: each call would be a join of its own. "
                f"Received: block '{block.name}', which is called {num_calls} times; let `wrap` leave it out"
            )
        x, y = stream_of(call), call.outputs[0]
        if x.shape != y.shape:
            raise ValueError(
                "Expected a wrapped block to return (first) a tensor of the shape of its first argument. "
                f"Received: block '{block.name}' with shapes {x.shape} and {y.shape}; let `wrap` leave it out"
            )
        self._add(call, type(block).__name__, x, y, _channel_axis(sublayers(block), x), wrapped=True)

    def _add_nested(self, model, plan, nested):
        if nested:
            self.nested[id(model)] = plan
            self._report.append((model.name, plan))
        elif num_joins := len(plan.report().joins):
            reason = f"has {num_joins} joins, nested in a model of a class with its own constructor"
            self.left_alone.append(LeftAlone(model.name, type(model).__name__, reason))

    def _note_hidden(self, layer, wrap):
        hidden = next((sublayer for sublayer in sublayers(layer) if wrap(sublayer)), None)
        if hidden is not None:
            reason = f"hides '{hidden.name}' ({type(hidden).__name__}) from the graph: wrap this layer as a whole"
            self.left_alone.append(LeftAlone(layer.name, type(layer).__name__, reason))

    def _add(self, call, kind, x, fx, axis, wrapped=False):
        place = Place(self._name(call.operation, wrapped), kind, call, x, fx, self._states(x), axis, wrapped)
        self.places[id(call)] = place
        self._report.append((None, place))

    def _name(self, operation, wrapped):
        """Names the new layer after `operation`, or by number where that has one of Keras's running names."""
        stem = operation.name if wrapped else re.sub("_?add$", "", operation.name)
        if not wrapped and re.fullmatch(r"add(_\d+)?", operation.name):
            stem = ""
        while True:
            name = f"{stem}_laurel" if stem else f"laurel_{self._num_unnamed}"
            self._num_unnamed += not stem
            if name not in self._names:
                self._names.add(name)
                return name
            stem = stem and f"{stem}_"

    def _states(self, x):
        """Returns the inputs of the joins before `x` in its stream, oldest first; none where the shape has changed."""
        steps, tensor = [], x
        while (call := self.graph.maker(tensor)) is not None:
            if id(call) in self.places:
                place = self.places[id(call)]
                return [*place.states, place.x] if _keeps_shape(steps[::-1], place.x, x) else []
            main = self.graph.main_input(call)
            if main is None:
                return []
            steps.append((call, main))
            tensor = main
        return []

    @property
    def layers(self):
        """The layers of the graph, each once."""
        operations = {id(call.operation): call.operation for call in self.graph.calls}
        return [operation for operation in operations.values() if isinstance(operation, keras.Layer)]

    def report(self, prefix=""):
        """Returns the `Report` of the plan; `prefix` goes before every name."""
        joins, left_alone = [], [LeftAlone(prefix + e.name, e.kind, e.reason) for e in self.left_alone]
        for name, entry in self._report:
            if isinstance(entry, Plan):
                inner = entry.report(f"{prefix}{name}/")
                joins += inner.joins
                left_alone += inner.left_alone
            else:
                joins.append(
                    Join(
                        name=prefix + entry.name,
                        replaces=prefix + entry.call.operation.name,
                        kind=entry.kind,
                        shape=tuple(entry.x.shape),
                        num_previous=len(entry.states),
                        skip=self.graph.maker_name(entry.x),
                        branch=self.graph.maker_name(entry.fx),
                    )
                )
        return Report(tuple(joins), tuple(left_alone))


def _keeps_shape(steps, state, x):
    """Whether `x`, computed from `state` and then by `steps`, has its shape for unknown dimensions too."""
    if state.shape != x.shape:
        return False
    if None not in x.shape[1:]:
        return True
    shape = tuple(32 if size is None else size for size in state.shape)
    current = keras.KerasTensor(shape, state.dtype)
    for call, main in steps:
        args, kwargs = keras.tree.map_structure(
            lambda value, main=main, current=current: current if value is main else value,
            (call.arguments.args, call.arguments.kwargs),
        )
        current = keras.tree.flatten(call.operation.compute_output_spec(*args, **kwargs))[0]
    return tuple(current.shape) == shape


def _channel_axis(layers, x):
    """Returns the channel axis of `x`, as the first of `layers` that knows one has it."""
    axis = -1
    for layer in layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            axis = layer.axis
        elif hasattr(layer, "data_format"):
            axis = 1 if layer.data_format == "channels_first" else -1
        else:
            continue
        break
    else:
        if len(x.shape) == 4 and keras.config.image_data_format() == "channels_first":
            axis = 1
    return -1 if axis == len(x.shape) - 1 else axis

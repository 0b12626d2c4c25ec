"""`fold`: a LAuReL model becomes a plain one with the same outputs."""

import keras
import numpy as np
from keras import ops

from keras_laurel.folding.joins import JOINS, plain_join
from keras_laurel.folding.rules import RULES, described, embedding, passes, takes_no_scale
from keras_laurel.folding.scales import Scales
from keras_laurel.monitoring import laurel_joins
from keras_laurel.retrofit.graph import Graph
from keras_laurel.retrofit.models import copy_layer, graph_of, has_own_constructor, is_functional, sublayers

# Functions of a `Folding` and a layer or model that return its folded copy, of those classes whose copy is not made by
# their config or their graph.
REMAKERS = {}


def fold(model):
    """Returns a copy of `model` without alpha and beta, for inference: the same outputs, to float32's round-off.

    With `s` the product of the betas so far, a plain residual network whose stream is `x / s` does the same. Its
    branches begin with a layer that takes the scale out again, a norm or a kernel, and end in one that gives their
    output the new scale: all is absorbed by weights that are there. ReLU, pooling and dropout pass a positive scale.
    Joins with residual weights alone become `keras.layers.Add`; of the others, the low-rank maps and previous
    activations stay, as `Laurel` layers. The folded model is an ordinary Keras model, and as fast as the plain one.

    The folding is computed in float64 and written in the weights' own precision; under mixed precision, activations
    still round as they do there. The epsilon of a norm on the stream is folded too: it changes with the layer's place.
    Where the betas of a stream multiply up beyond the range of the floats, a `keras.layers.Rescaling` by a power of two
    brings it back.

    Batch normalization is folded as it is in inference, LoRA is merged, and `drop_path` of the joins dropped: train
    before.

    Args:
        model: A functional model, nested ones included, a built `Sequential`, or a `LaurelDecoderBackbone` or
            `LaurelCausalLM`. It stays as it is.

    Returns:
        The folded model, not compiled: a plain `keras.Model`, or the decoder with a `residual` without `"rw"`.

    Raises:
        ValueError: If alpha and beta cannot be folded away exactly, which the message says why: a layer on the stream
            that takes no scale, one join around several branches, per-channel weights before a norm, weights that
            are not positive, a stream that is itself the input and the output of the model. Also if `model` does
            not show its graph, or is quantized.

    Example:
    >>> inputs = x = keras.Input((8,))
    >>> x = keras.layers.Dense(8)(x)
    >>> for _ in range(3):
    ...     x = keras_laurel.LaurelRW()([x, keras.layers.Dense(8)(keras.layers.LayerNormalization()(x))])
    >>> model = keras.Model(inputs, keras.layers.Dense(1)(x))
    >>> folded = keras_laurel.fold(model)
    >>> model.count_params() - folded.count_params()
    6
    """
    if not isinstance(model, keras.Layer) or not is_functional(model):
        name = getattr(model, "name", model)
        raise ValueError(
            "Expected a functional model or a built `Sequential`, whose graph shows its joins. "
            f"Received: '{name}' of class {type(model).__name__}"
        )
    for layer in sublayers(model):
        if layer.quantization_mode is not None:
            raise ValueError(
                f"Expected a model that is not quantized: fold first, then quantize. Received: {described(layer)}, "
                f"quantized to {layer.quantization_mode}"
            )
    folding = Folding(model)
    for name, join in laurel_joins(model).items():
        if join.residual_weights is not None and id(join) not in folding.folded:
            raise ValueError(
                "Expected joins in the graph of the model, each called once. "
                f"Received: join '{name}', which is called more than once, or by a layer that does not show its graph"
            )
    return folding.copy(model)


class Folding:
    """What is found out about the scales in a model, what follows for its weights, and its copy.

    Args:
        model: The model to fold.

    Attributes:
        scales: The `Scales` of its tensors.
        folded: Set of the `id` of each join whose alpha and beta are folded.
        skip_bits: Dictionary of the `id` of a join to the power of two by which its skip is rescaled.
        epsilons: Dictionary of the `id` of a norm to its new epsilon.
        names: Set of the names of the layers.
    """

    def __init__(self, model):
        self.scales = Scales()
        self.folded, self.skip_bits, self.epsilons = set(), {}, {}
        self._log_factors, self._later, self._copies, self._left_out = {}, [], {}, set()
        self._num_calls, self._traced, self.names = {}, set(), set()
        self._count_calls(model)
        self._trace(model)
        self.scales.check()
        for absorb in self._later:
            absorb()

    # Rules call these.

    def tie(self, a, b, difference=0.0, why=None):
        """See `Scales.tie`."""
        self.scales.tie(a, b, difference, why)

    def pin(self, node, why):
        """See `Scales.pin`."""
        self.scales.pin(node, why)

    def mark(self, node):
        """See `Scales.mark`."""
        self.scales.mark(node)

    def need(self, node, axis, layer):
        """Says that `layer` takes scales of channels along `axis` at `node`, or none if it is `None`."""
        shape = getattr(node, "shape", ())
        if axis is not None and shape:
            axis = -1 if axis in (-1, len(shape) - 1) else axis
        self.scales.need(node, axis, described(layer))

    def later(self, absorb):
        """Calls `absorb()` when all scales are known."""
        self._later.append(absorb)

    def multiply(self, variable, log_factor):
        """Multiplies the copy of `variable` by `exp(log_factor)`, broadcast."""
        if np.any(log_factor):
            before = self._log_factors.get(id(variable), 0.0)
            self._log_factors[id(variable)] = before + np.asarray(log_factor)

    def apply(self, layer, inputs, outputs):
        """Ties the scales of float tensors that a call of `layer` takes and returns, or of objects in their place."""
        function = RULES.get(type(layer), takes_no_scale)
        shared = self._num_calls.get(id(layer), 1) > 1 and function is not passes
        if shared and (getattr(layer, "variables", ()) or hasattr(layer, "epsilon")):
            takes_no_scale(self, layer, inputs, outputs, "is called more than once")
        elif not inputs and function is not embedding:
            takes_no_scale(self, layer, inputs, outputs, "makes floats of other numbers")
        else:
            function(self, layer, inputs, outputs)

    # The way through the graph.

    def _count_calls(self, model):
        for call in Graph(*graph_of(model)).calls:
            layer = call.operation
            self._num_calls[id(layer)] = self._num_calls.get(id(layer), 0) + 1
            self.names.add(layer.name)
            if is_functional(layer) and self._num_calls[id(layer)] == 1:
                self._count_calls(layer)

    def _trace(self, model, inputs=None, outputs=None):
        """Ties the scales in the graph of `model`, and those of its ends to those of its call if it is nested."""
        graph = Graph(*graph_of(model))
        self._tie_ends(graph.inputs, inputs, f"an input of model '{model.name}', which stays as it is")
        for call in graph.calls:
            layer, tensors, results = call.operation, _floats(call.input_tensors), _floats(call.outputs)
            if not is_functional(layer):
                self.apply(layer, tensors, results)
            elif self._num_calls[id(layer)] == 1:
                self._trace(layer, tensors, results)
            else:
                takes_no_scale(self, layer, tensors, results, "is called more than once")
                if id(layer) not in self._traced:
                    self._traced.add(id(layer))
                    self._trace(layer)
        self._tie_ends(graph.outputs, outputs, f"an output of model '{model.name}', which stays as it is")

    def _tie_ends(self, tensors, others, why):
        tensors, others = _floats(tensors), others or []
        if len(tensors) == len(others):
            for tensor, other in zip(tensors, others):
                self.tie(tensor, other)
        else:
            for tensor in (*tensors, *others):
                self.pin(tensor, why)

    # The copy.

    def copy(self, layer):
        """Returns the folded copy of a layer or model, the same one each time."""
        if id(layer) not in self._copies:
            if type(layer) in REMAKERS:
                copy = REMAKERS[type(layer)](self, layer)
            elif is_functional(layer):
                copy = self._redraw(layer)
            elif id(layer) in self.epsilons:
                copy = type(layer).from_config({**layer.get_config(), "epsilon": self.epsilons[id(layer)]})
            elif getattr(layer, "lora_enabled", False):
                copy = type(layer).from_config({**layer.get_config(), "lora_rank": None})
            else:
                copy = copy_layer(layer)
            self._copies[id(layer)] = layer, copy
        return self._copies[id(layer)][1]

    def plain_join(self, join):
        """Returns a new join like `join` without alpha and beta, which are then left out of the copied values."""
        for part in (join.residual_weights, join.branch_dropout):
            if part is not None:
                self._left_out.update(map(id, part.variables))
        return plain_join(join, self.names)

    def copy_values(self, layer, copy):
        """Gives `copy` the folded values, and the `trainable` flags, of `layer`."""
        if copy is layer:
            return
        merged = {}
        for part in (layer, *sublayers(layer)):
            if getattr(part, "lora_enabled", False):
                for variable in part.variables:
                    if variable.name.startswith("lora_"):
                        self._left_out.add(id(variable))
                    elif variable.name in ("kernel", "embeddings"):
                        merged[id(variable)] = getattr(part, variable.name)
        variables = [variable for variable in layer.variables if id(variable) not in self._left_out]
        if [tuple(variable.shape) for variable in variables] != [tuple(place.shape) for place in copy.variables]:
            raise ValueError(
                "Expected the config of a layer to make its weights anew. "
                f"Received: {described(layer)}, whose copy has others"
            )
        for variable, place in zip(variables, copy.variables):
            value = ops.convert_to_numpy(merged.get(id(variable), variable))
            if id(variable) in self._log_factors:
                value = value.astype("float64") * np.exp(self._log_factors[id(variable)])
            place.assign(value)
            place.trainable = variable.trainable

    def _redraw(self, model):
        inputs, outputs = graph_of(model)
        tensors, layers = {}, {}

        def new(value):
            return tensors.get(id(value), value) if isinstance(value, keras.KerasTensor) else value

        for call in Graph(inputs, outputs).calls:
            layer = operation = call.operation
            if isinstance(layer, keras.Layer):
                operation = self.copy(layer)
                layers[id(layer)] = layer
            args, kwargs = keras.tree.map_structure(new, (call.arguments.args, call.arguments.kwargs))
            if id(layer) in self.skip_bits:
                x, *others = map(new, call.input_tensors)
                name, dtype = f"{layer.name}_rescaling", layer.dtype_policy
                x = keras.layers.Rescaling(2.0 ** self.skip_bits[id(layer)], name=name, dtype=dtype)(x)
                args, kwargs = ([x, *others],), {}
            tensors.update(zip(map(id, call.outputs), keras.tree.flatten(operation(*args, **kwargs))))
        for layer in layers.values():
            if not is_functional(layer):
                self.copy_values(layer, self.copy(layer))
        cls = keras.Model if isinstance(model, keras.Sequential) or has_own_constructor(model) else type(model)
        return cls(*keras.tree.map_structure(new, (inputs, outputs)), name=model.name)


def _floats(tensors):
    return [tensor for tensor in tensors if keras.backend.is_float_dtype(tensor.dtype)]


REMAKERS.update(dict.fromkeys(JOINS, Folding.plain_join))

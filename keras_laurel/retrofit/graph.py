"""The graph of a functional model: which call made which tensor, and from which others."""

import re

import keras


class Graph:
    """The calls between `inputs` and `outputs`, each after those whose outputs it takes.

    Keras has no public way to ask which call made a tensor, so `_keras_history` of tensors, `_inbound_nodes` of
    operations and the attributes of a node (`operation`, `arguments`, `input_tensors`, `outputs`) are read here and
    in `rewiring.py`, as `keras.utils.model_to_dot` does.

    Args:
        inputs: Structure of the model's symbolic inputs.
        outputs: Structure of its symbolic outputs.
    """

    def __init__(self, inputs, outputs):
        self.inputs = keras.tree.flatten(inputs)
        self.outputs = keras.tree.flatten(outputs)
        self.calls = self._sorted_calls()
        self._made_by = {id(tensor): call for call in self.calls for tensor in call.outputs}

    def _sorted_calls(self):
        ordered, seen = [], {id(_call_of(tensor)) for tensor in self.inputs}
        stack = [(_call_of(tensor), False) for tensor in reversed(self.outputs)]
        while stack:
            call, inputs_done = stack.pop()
            if inputs_done:
                ordered.append(call)
            elif id(call) not in seen:
                seen.add(id(call))
                stack.append((call, True))
                stack.extend((_call_of(tensor), False) for tensor in reversed(call.input_tensors))
        return ordered

    def maker(self, tensor):
        """Returns the call that made `tensor`, or `None` for an input of the graph."""
        return self._made_by.get(id(tensor))

    def makers(self, ids):
        """Returns the calls that made the tensors of these `ids`; inputs of the graph have none."""
        return [self._made_by[key] for key in ids if key in self._made_by]

    def maker_name(self, tensor):
        """Returns the name of the operation that made `tensor`."""
        return _call_of(tensor).operation.name

    def steps_back(self, tensor):
        """Returns how many calls lie at least between `tensor` and each tensor that it was computed from.

        Embeddings end the way: what they return looks up their input, or just its shape, and does not transform it.

        Returns:
            Dictionary of the `id` of `tensor` and its ancestors to their number of steps, nearest first.
        """
        steps = {id(tensor): 0}
        queue = [tensor]
        for current in queue:
            call = self.maker(current)
            if call is None or _is_embedding(call.operation):
                continue
            for ancestor in call.input_tensors:
                if id(ancestor) not in steps:
                    steps[id(ancestor)] = steps[id(current)] + 1
                    queue.append(ancestor)
        return steps

    def main_input(self, call):
        """Returns the input of `call` that its other inputs were computed from, or `None` if there is none."""
        tensors = list({id(tensor): tensor for tensor in call.input_tensors}.values())
        steps = [self.steps_back(tensor) for tensor in tensors] if len(tensors) > 1 else []
        return next((tensor for tensor in tensors if all(id(tensor) in ancestors for ancestors in steps)), None)


def _call_of(tensor):
    history = tensor._keras_history
    return history.operation._inbound_nodes[history.node_index]


def _is_embedding(operation):
    # Position embeddings take the token embedding for its shape alone, so that adding them to it looks like a join.
    by_name = re.search(r"Position(al)?(Embedding|Encoding)", type(operation).__name__)
    return isinstance(operation, keras.layers.Embedding) or by_name is not None

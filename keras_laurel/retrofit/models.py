"""The kinds of models: which show their graph, and which can be made from a graph."""

import inspect

import keras


def is_functional(layer):
    """Whether `layer` is a model that shows its graph: functional, or a built `Sequential`."""
    if isinstance(layer, keras.Sequential):
        return layer.built
    return isinstance(layer, keras.Model) and isinstance(layer, keras.Function)


def graph_of(model):
    """Returns the structures of the symbolic inputs and outputs of a model that shows its graph."""
    if isinstance(model, keras.Sequential):
        return model.inputs[0], model.outputs[0]
    return model.input, model.output


def has_own_constructor(model):
    """Whether the class of a functional model draws its graph itself, as keras_hub's backbones do.

    The others are made as `keras.Model(inputs, outputs)` is; also those whose `__init__(*args, **kwargs)` passes on
    what it gets, by Keras's own rule.
    """
    if isinstance(model, keras.Sequential):
        return False
    parameters = list(inspect.signature(type(model).__init__).parameters.values())[1:]
    kinds = {parameter.kind for parameter in parameters}
    passes_on = {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD} <= kinds
    return not passes_on and [parameter.name for parameter in parameters[:2]] != ["inputs", "outputs"]


def sublayers(layer):
    """Returns the layers inside `layer`, at all depths."""
    return list(layer._flatten_layers(include_self=False))  # Keras has no public way to list them


def copy_layer(layer):
    """Returns a new layer like `layer`, with the same name; its values come by `copy_state` once it is built."""
    try:
        return type(layer).from_config(layer.get_config())
    except (AttributeError, NotImplementedError, TypeError, ValueError) as error:
        if not layer.variables:
            return layer  # such as a `Lambda`: without state, one layer can serve both models
        raise ValueError(
            "Expected layers that can be made anew from their config, to copy them. Received: layer "
            f"'{layer.name}' of class {type(layer).__name__}, which cannot: {error}"
        ) from error


def copy_state(layer, copy):
    """Gives `copy`, and the layers in it, the values and the `trainable` flags of `layer`."""
    if copy is layer:
        return
    values, places = layer.variables, copy.variables
    if [tuple(value.shape) for value in values] != [tuple(place.shape) for place in places]:
        raise ValueError(
            "Expected the config of a layer to make its weights anew. Received: layer "
            f"'{layer.name}' of class {type(layer).__name__} with {len(values)} variables, whose copy has "
            f"{len(places)}, or other shapes"
        )
    if layer.trainable != copy.trainable:
        copy.trainable = layer.trainable
    for value, place in zip(values, places):
        place.assign(keras.ops.convert_to_numpy(value))
        place.trainable = value.trainable

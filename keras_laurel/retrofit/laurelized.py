"""Retrofitted models of classes that draw their graph in their own constructor, such as keras_hub's backbones."""

from typing import Any

import keras
from keras.src.models.functional import Functional  # what `keras.Model(inputs, outputs)` makes; not exported

from keras_laurel.retrofit.finding import Plan
from keras_laurel.retrofit.loops import looped
from keras_laurel.retrofit.models import sublayers
from keras_laurel.retrofit.rewiring import rewire
from keras_laurel.retrofit.wrapper import LaurelWrapper


class Rewiring:
    """How a model's graph is rewired while it is made, and what came of it.

    Args:
        wrap: Predicate of the layers to wrap whole.
        make_join: Callable that takes a `Place` and returns a new layer.

    Attributes:
        plan: The `Plan` of the graph as the constructor drew it.
        joins: The new layers, in the order of the graph.
        new: Function that returns the new tensor for one of that graph.
    """

    def __init__(self, wrap, make_join):
        self.wrap = wrap
        self.make_join = make_join

    def __call__(self, inputs, outputs):
        """Returns the rewired inputs and outputs."""
        self.plan = Plan(inputs, outputs, self.wrap, nested=False)
        self.new, self.joins = rewire(self.plan, self.make_join, lambda operation: operation)
        return keras.tree.map_structure(self.new, (inputs, outputs))


@keras.saving.register_keras_serializable("keras_laurel")
class Laurelized:
    """Saves and loads the rewired models of all classes, which are made at run time: see `laurelized_class`."""

    _base: Any
    _rewiring: Any

    def get_config(self):
        plan, joins = self._rewiring.plan, self._rewiring.joins
        return {
            "base": {
                "module": self._base.__module__,
                "class_name": self._base.__name__,
                "registered_name": keras.saving.get_registered_name(self._base),
                "config": self._base.get_config(self),
            },
            "wrapped": [place.call.operation.name for place in plan.places.values() if place.wrapped],
            "joins": [keras.saving.serialize_keras_object(getattr(join, "join", join)) for join in joins],
            "frozen": [layer.name for layer in plan.layers if not layer.trainable],
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        """Makes the model of the base class anew and rewires it as it was."""
        with keras.saving.CustomObjectScope(custom_objects or {}):
            # By the registered class if there is one: making a model to learn its class costs its memory.
            base = keras.saving.get_registered_object(config["base"]["registered_name"])
            base = base or type(keras.saving.deserialize_keras_object(config["base"]))
            joins = iter([keras.saving.deserialize_keras_object(join) for join in config["joins"]])
        wrapped, frozen = set(config["wrapped"]), set(config["frozen"])
        rewiring = Rewiring(lambda layer: layer.name in wrapped, lambda place: next(joins))
        model = make_laurelized(base, rewiring, config["base"]["config"])
        for layer in rewiring.plan.layers:
            if layer.name in frozen:
                layer.trainable = False
        return model


class _Rewired(Functional):
    """Rewires the graph that a constructor has drawn, just before it becomes the model's."""

    def __init__(self, inputs, outputs, **kwargs):
        super().__init__(*self._rewiring(inputs, outputs), **kwargs)


def laurelized_class(base):
    """Returns the subclass of `base` whose models are rewired.

    Its constructor takes a `Rewiring` and the arguments of `base`. It runs the constructor of `base`, so that all
    attributes and methods are there, and then puts the wrappers in place of their blocks where an attribute is a list
    of blocks, and new tensors in place of old ones where it is a dictionary of tensors, such as `pyramid_outputs`.
    """

    class LaurelizedBase(Laurelized, base, _Rewired):
        _base = base

        def __init__(self, rewiring, **config):
            self._rewiring = rewiring
            super().__init__(**config)
            wrappers = {id(join.layer): join for join in rewiring.joins if isinstance(join, LaurelWrapper)}
            for name, value in list(vars(self).items()):
                if isinstance(value, dict) and any(rewiring.new(item) is not item for item in value.values()):
                    setattr(self, name, {key: rewiring.new(item) for key, item in value.items()})
                # `_layers` is Keras's own list of what it saves.
                elif name != "_layers" and isinstance(value, (list, tuple)) and any(id(v) in wrappers for v in value):
                    setattr(self, name, looped(value, wrappers, rewiring.plan, name))

    LaurelizedBase.__name__ = f"Laurel{base.__name__}"
    # One name for all: each of them, and `Laurelized` in a process that has made none yet, loads the models of any.
    return keras.saving.register_keras_serializable("keras_laurel", "Laurelized")(LaurelizedBase)


def make_laurelized(base, rewiring, config):
    """Returns a rewired model of a subclass of `base`, made from the config of a model of `base`."""
    config = dict(config)
    if isinstance(config.get("dtype"), dict):
        config["dtype"] = keras.dtype_policies.deserialize(config["dtype"])
    model = laurelized_class(base)(rewiring, **config)
    for layer in [model, *sublayers(model)]:
        # A quantized backbone's config has one map of policies for all its layers. Keras fails to save a quantized
        # embedding that has the map (its `quantization_mode` is that of the map's default) and not its own policy.
        if isinstance(layer.dtype_policy, keras.dtype_policies.DTypePolicyMap):
            policy = layer.dtype_policy
            layer._dtype_policy = policy[layer.path] if layer is not model and layer.path else policy.default_policy
    return model

"""What lets a layer made of quantized sublayers be saved and loaded."""

import re

import keras
from keras.dtype_policies import DTypePolicyMap


def dtype_with_quantized_sublayers(layer):
    """Returns the `dtype` entry of `layer`'s config, with the policy of each quantized sublayer.

    `Model.quantize` changes the policies of the leaf layers only. A parent that rebuilds its sublayers with
    `dtype=self.dtype_policy` must therefore write them into its config, or the saved weights find no place.
    The keys are patterns that end in the path below `layer`, so they hold wherever `layer` is loaded.

    Args:
        layer: A `keras.layers.Layer`.

    Returns:
        A serialized `keras.dtype_policies.DTypePolicy`, or `DTypePolicyMap` if a sublayer is quantized.
    """
    policy = layer.dtype_policy
    default = policy.default_policy if isinstance(policy, DTypePolicyMap) else policy
    quantized = DTypePolicyMap(default)
    for sublayer in layer._flatten_layers(include_self=False):
        if sublayer.built and sublayer.quantization_mode is not None:
            own = sublayer.dtype_policy
            pattern = ".*" + re.escape(sublayer.path.removeprefix(layer.path))
            quantized[pattern] = own[sublayer.path] if isinstance(own, DTypePolicyMap) else own
    return keras.dtype_policies.serialize(quantized if len(quantized) else policy)

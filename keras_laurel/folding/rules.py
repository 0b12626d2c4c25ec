"""How each kind of layer treats a scaled input.

A rule is a function of a `Folding`, a layer, its inputs and its outputs. It ties their scales, and hands over a
function that writes what the layer absorbs, for when all scales are known. A layer without a rule takes no scale.
"""

import math
import operator

import keras
import numpy as np
from keras import layers
from keras.src.applications import convnext  # its two layers are not exported
from keras.src.ops.nn import Relu as ReluOperation  # what functions and `+` make in a graph; not exported
from keras.src.ops.numpy import Add as PlusOperation
from keras.src.ops.numpy import Copy as CopyOperation

from keras_laurel.mixers import (
    MLP,
    CausalAttention,
    GatedLinearAttention,
    Hyena,
    HyenaExperts,
    LinearAttention,
    Mamba,
    MixtureOfExperts,
    MultiHeadHyena,
    SwiGLU,
)

RULES = {}

HOMOGENEOUS = (keras.activations.linear, keras.activations.relu, keras.activations.leaky_relu)


def rule(*classes):
    """Registers a rule for layers of just these classes: a subclass may compute something else."""

    def register(function):
        RULES.update(dict.fromkeys(classes, function))
        return function

    return register


def takes_no_scale(folding, layer, inputs, outputs, why="may treat a scaled input in another way"):
    """The rule of all layers without one."""
    for node in (*inputs, *outputs):
        folding.pin(node, f"{described(layer)}, which {why}")


@rule(
    convnext.StochasticDepth,
    layers.Dropout,
    layers.GaussianDropout,
    layers.Identity,
    layers.LeakyReLU,
    layers.PReLU,
    layers.SpatialDropout1D,
    layers.SpatialDropout2D,
    layers.SpatialDropout3D,
    CopyOperation,
    ReluOperation,
)
def passes(folding, layer, inputs, outputs):
    """The output is scaled as each input is."""
    for node in (*inputs[1:], *outputs):
        folding.tie(inputs[0], node)


@rule(layers.Add, layers.Average, layers.Maximum, layers.Minimum, layers.Subtract, PlusOperation)
def merges(folding, layer, inputs, outputs):
    """As `passes`, for inputs that broadcast too."""
    if isinstance(layer, PlusOperation) and len(inputs) != 2:
        return takes_no_scale(folding, layer, inputs, outputs, "adds a constant")
    if len({tuple(node.shape) for node in inputs if hasattr(node, "shape")}) > 1:
        return mixes_channels(folding, layer, inputs, outputs)
    return passes(folding, layer, inputs, outputs)


@rule(layers.Concatenate, layers.Flatten, layers.Permute, layers.RepeatVector, layers.Reshape)
def mixes_channels(folding, layer, inputs, outputs):
    """As `passes`, where the output's channels are not the input's."""
    for node in (*inputs, *outputs):
        folding.need(node, None, layer)
    passes(folding, layer, inputs, outputs)


@rule(
    *(
        getattr(layers, f"{kind}{ndim}D")
        for kind in ("AveragePooling", "GlobalAveragePooling", "GlobalMaxPooling", "MaxPooling")
        for ndim in (1, 2, 3)
    ),
    *(getattr(layers, f"{kind}{ndim}D") for kind in ("Cropping", "UpSampling", "ZeroPadding") for ndim in (1, 2, 3)),
)
def keeps_channels(folding, layer, inputs, outputs):
    """As `passes`, channel by channel."""
    for node in (*inputs, *outputs):
        folding.need(node, channel_axis(layer), layer)
    passes(folding, layer, inputs, outputs)


@rule(layers.ReLU)
def relu(folding, layer, inputs, outputs):
    """As `passes`, unless it is bounded."""
    if layer.max_value is None and layer.threshold == 0:
        return passes(folding, layer, inputs, outputs)
    return takes_no_scale(folding, layer, inputs, outputs, not_homogeneous("relu with a bound"))


@rule(layers.Activation)
def activation(folding, layer, inputs, outputs):
    """As `passes`, if a positive scale passes the function."""
    if layer.activation in HOMOGENEOUS:
        return passes(folding, layer, inputs, outputs)
    return takes_no_scale(folding, layer, inputs, outputs, not_homogeneous(layer.activation))


@rule(layers.Rescaling)
def rescaling(folding, layer, inputs, outputs):
    """As `passes`, without an offset."""
    if np.all(np.asarray(layer.offset) == 0):
        return passes(folding, layer, inputs, outputs)
    return takes_no_scale(folding, layer, inputs, outputs, "adds an offset")


@rule(
    layers.Conv1D,
    layers.Conv2D,
    layers.Conv3D,
    layers.Conv1DTranspose,
    layers.Conv2DTranspose,
    layers.Conv3DTranspose,
    layers.Dense,
    layers.DepthwiseConv1D,
    layers.DepthwiseConv2D,
    layers.EinsumDense,
    layers.SeparableConv1D,
    layers.SeparableConv2D,
)
def kernel(folding, layer, inputs, outputs):
    """The kernel takes the input's scale and gives the output any other, where no activation is in between."""
    (x,), (y,) = inputs, outputs
    if layer.activation not in HOMOGENEOUS:
        folding.pin(y, f"{described(layer)}, which {not_homogeneous(layer.activation)}")
    numbers_only = isinstance(layer, layers.EinsumDense) or "Transpose" in type(layer).__name__
    axis = None if numbers_only else channel_axis(layer)
    folding.need(x, None if getattr(layer, "groups", 1) > 1 else axis, layer)
    folding.need(y, axis, layer)
    folding.later(lambda: scale_kernel(folding, layer, folding.scales[x], folding.scales[y]))


def scale_kernel(folding, layer, log_in, log_out):
    """Makes `layer` take an input divided by `exp(log_in)` and return its output divided by `exp(log_out)`.

    The last two axes of a kernel are those of the input and of the output; those of a depthwise kernel are both of the
    output.
    """
    own = {variable.name: variable for variable in layer.variables}
    of_input = log_in[:, None] if np.ndim(log_in) else log_in
    if "depthwise_kernel" in own:
        folding.multiply(own["depthwise_kernel"], of_input)
        folding.multiply(own["pointwise_kernel"], -log_out)
    elif isinstance(layer, (layers.DepthwiseConv1D, layers.DepthwiseConv2D)):
        shape = own["kernel"].shape[-2:]
        folding.multiply(own["kernel"], of_input - (np.reshape(log_out, shape) if np.ndim(log_out) else log_out))
    else:
        folding.multiply(own["kernel"], of_input - log_out)
    if "bias" in own:
        folding.multiply(own["bias"], -log_out)


@rule(layers.Embedding)
def embedding(folding, layer, inputs, outputs):
    """The table gives the output any scale."""
    (y,) = outputs
    folding.need(y, -1, layer)
    for indices in inputs:
        folding.pin(indices, f"{described(layer)}, which looks it up")

    table = next(variable for variable in layer.variables if variable.name == "embeddings")
    folding.later(lambda: folding.multiply(table, -folding.scales[y]))


@rule(layers.GroupNormalization, layers.LayerNormalization, layers.RMSNormalization)
def normalization(folding, layer, inputs, outputs):
    """The output does not feel the input's scale if epsilon has it too; the gain gives the output any other."""
    (x,), (y,) = inputs, outputs
    own = {variable.name: variable for variable in layer.variables}
    gain = own.get("gamma", own.get("scale"))
    folding.need(x, None, layer)
    if gain is None:
        folding.pin(y, f"{described(layer)}, which has no gain to scale its output by")
    axes = layer.axis if isinstance(layer.axis, (list, tuple)) else [layer.axis]
    folding.need(y, axes[0] if len(axes) == 1 else None, layer)

    def absorb():
        log_in, log_out = folding.scales[x], folding.scales[y]
        if log_in:
            folding.epsilons[id(layer)] = layer.epsilon * math.exp(-2 * log_in)
        for variable in own.values():
            folding.multiply(variable, -log_out)

    folding.later(absorb)


@rule(layers.BatchNormalization)
def batch_normalization(folding, layer, inputs, outputs):
    """An affine map, as it is in inference: `y = (x - mean) * gamma / deviation + beta`."""
    (x,), (y,) = inputs, outputs
    folding.need(x, layer.axis, layer)
    folding.need(y, layer.axis, layer)
    if not layer.scale:
        folding.tie(x, y)

    def absorb():
        log_in, log_out = folding.scales[x], folding.scales[y]
        folding.multiply(layer.moving_mean, -log_in)
        if layer.scale:
            folding.multiply(layer.gamma, log_in - log_out)
        if layer.center:
            folding.multiply(layer.beta, -log_out)

    folding.later(absorb)


@rule(convnext.LayerScale)
def layer_scale(folding, layer, inputs, outputs):
    """The vector takes the input's scale and gives the output any other."""
    (x,), (y,) = inputs, outputs
    for node in (x, y):
        folding.need(node, -1, layer)
    folding.later(lambda: folding.multiply(layer.gamma, folding.scales[x] - folding.scales[y]))


def _through_projections(first, last):
    """Returns the rule of a layer that ends in the projection `last`, and starts in those that `first` names."""

    def projections(folding, layer, inputs, outputs):
        if len({id(node) for node in inputs}) > 1 or len(outputs) > 1:
            return takes_no_scale(folding, layer, inputs, outputs)
        inside, why = object(), f"{described(layer)}, whose projections meet in a function that takes no scale"
        folding.pin(inside, why)
        for name in first:
            folding.apply(operator.attrgetter(name)(layer), inputs[:1], [inside])
        return folding.apply(getattr(layer, last), [inside], outputs)

    return projections


rule(CausalAttention)(_through_projections(("query", "key", "value"), "attention_output"))
rule(layers.MultiHeadAttention)(_through_projections(("query_dense", "key_dense", "value_dense"), "output_dense"))
rule(SwiGLU)(_through_projections(("gate", "up"), "output_dense"))
rule(MLP)(_through_projections(("up",), "output_dense"))
rule(MixtureOfExperts)(_through_projections(("up", "gate", "router"), "output_dense"))
rule(LinearAttention)(_through_projections(("query", "key", "value"), "attention_output"))
rule(GatedLinearAttention)(
    _through_projections(("query", "key", "value", "output_gate", "gate_down"), "attention_output")
)
rule(Mamba)(_through_projections(("up", "gate"), "output_dense"))
rule(Hyena)(_through_projections(("projection.dense",), "output_dense"))
rule(MultiHeadHyena)(_through_projections(("projection.dense",), "output_dense"))
rule(HyenaExperts)(_through_projections(("projection.dense", "router"), "output_dense"))


def channel_axis(layer):
    """Returns the channel axis of a layer that knows a `data_format`; the last of all others."""
    return 1 if getattr(layer, "data_format", None) == "channels_first" else -1


def described(layer):
    """Returns what an error calls `layer`."""
    return f"layer '{getattr(layer, 'path', None) or layer.name}' of class {type(layer).__name__}"


def not_homogeneous(function):
    """Returns what to say about an activation that a positive scale does not pass."""
    name = getattr(function, "__name__", function)
    return f"is not positively homogeneous: {name}(s * x) is not s * {name}(x)"

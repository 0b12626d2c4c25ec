"""What mixers with heads share."""

import keras
from keras import ops


def head_width(layer, input_shape):
    """Returns the width of a head of `layer`.

    Raises:
        ValueError: If the layer has no `head_dim`, and its `num_heads` does not divide the number of channels.
    """
    if layer.head_dim is None and input_shape[-1] % layer.num_heads:
        raise ValueError(
            "Expected `num_heads` to divide the number of channels. "
            f"Received: num_heads={layer.num_heads}, input_shape={tuple(input_shape)}"
        )
    return layer.head_dim or input_shape[-1] // layer.num_heads


def head_projection(layer, name, input_shape, width, use_bias=False):
    """Returns a built projection of `(batch, length, dim)` to `(batch, num_heads, length, width)`."""
    projection = keras.layers.EinsumDense(
        "btd,dhk->bhtk",
        (layer.num_heads, None, width),
        bias_axes="hk" if use_bias else None,
        kernel_initializer=layer.kernel_initializer.clone(),
        name=name,
        dtype=layer.dtype_policy,
    )
    projection.build(input_shape)
    return projection


def merge_projection(layer, input_shape, width):
    """Returns a built projection of `(batch, num_heads, length, width)` back to `(batch, length, dim)`."""
    projection = keras.layers.EinsumDense(
        "bhtk,hkd->btd",
        (None, input_shape[-1]),
        kernel_initializer=layer.output_initializer.clone(),
        name="attention_output",
        dtype=layer.dtype_policy,
    )
    projection.build((input_shape[0], layer.num_heads, input_shape[1], width))
    return projection


def at_least_float32(*tensors):
    """Returns the tensors in float32, or as they are if they are finer."""
    dtype = keras.backend.result_type(tensors[0].dtype, "float32")
    return [ops.cast(tensor, dtype) for tensor in tensors]

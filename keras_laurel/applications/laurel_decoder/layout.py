"""How the weights of the decoder are divided over a mesh of devices."""

import keras


def layout_map(device_mesh, model_parallel_dim_name="model", data_parallel_dim_name="batch"):
    """Returns the `keras.distribution.LayoutMap` of `LaurelDecoderBackbone`.

    Heads and inner widths are divided over the model axis, so that a block exchanges data twice (Megatron); the other
    dimension of each kernel over the data axis, whose devices gather it when they need it (fully sharded). A dimension
    must be divisible by its axis: the vocabulary, the numbers of heads and the inner width by the model axis, the width
    by the data axis.

    Everything else is on every device: norms, positions, routers, the weights of Mamba and Hyena, and LAuReL's. A
    low-rank map is small, and its rank may be smaller than the axis. The stream is divided over the data axis by
    examples, so that their number must be divisible by it.

    Args:
        device_mesh: A `keras.distribution.DeviceMesh`.
        model_parallel_dim_name: Name of the mesh's model axis.
        data_parallel_dim_name: Name of the mesh's data axis.

    Raises:
        ValueError: If `device_mesh` is no mesh or lacks an axis.
    """
    if not isinstance(device_mesh, keras.distribution.DeviceMesh):
        raise ValueError(f"Expected a `keras.distribution.DeviceMesh`. Received: device_mesh={device_mesh!r}")
    model, data = model_parallel_dim_name, data_parallel_dim_name
    for axis in (model, data):
        if axis not in device_mesh.axis_names:
            raise ValueError(f"Expected a mesh with an axis {axis!r}. Received: axis_names={device_mesh.axis_names}")
    # Keys match whole paths: ".*" finds the weights in nested models too.
    layout = keras.distribution.LayoutMap(device_mesh)
    layout[".*token_embedding/embeddings"] = (model, data)
    layout[".*token_embedding/reverse_embeddings"] = (data, model)
    block = ".*transformer_layer_[0-9]+"
    layout[f"{block}/(|sliding_|linear_|gated_linear_)attention/(query|key|value|output_gate)/kernel"] = (
        data,
        model,
        None,
    )
    layout[f"{block}/(|sliding_|linear_|gated_linear_)attention/attention_output/kernel"] = (model, None, data)
    layout[".*transformer_layer_[0-9]+/feedforward/(gate|up)/kernel"] = (data, model)
    layout[".*transformer_layer_[0-9]+/feedforward/output/kernel"] = (model, data)
    # Those that are large enough to be taken for forgotten. Convolutions and scans go over whole channels.
    layout[f"{block}/gated_linear_attention/gate_(down|up)/.*"] = ()
    layout[f"{block}/linear_attention/(query|key)_features_[01]/.*"] = ()
    layout[f"{block}/(mamba|hyena|multi_head_hyena|hyena_experts)/.*"] = ()
    layout[f"{block}/feedforward/router/.*"] = ()
    layout[".*position_embedding/embeddings"] = ()
    layout[".*transformer_layer_[0-9]+/(mixer_|feedforward_)?join/.*(?<!/output)"] = ()
    # What the joins return. Else the compiler takes the division of the kernels' width for the stream's, and each chip
    # computes the whole batch.
    layout[".*transformer_layer_[0-9]+/(mixer_|feedforward_)?join/output"] = (data, None, None)
    return layout

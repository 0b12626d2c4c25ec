"""How the weights of ResNet-50 are divided over a mesh of devices."""

import keras


def laurel_resnet50_layout_map(device_mesh, model_parallel_dim_name="model"):
    """Returns the `keras.distribution.LayoutMap` of `LaurelResNet50`.

    The kernel of each convolution is divided by its output channels, that of the classifier by its input channels:
    1000 classes divide badly. The filters of each stage, 64 to 512 and four times as many, must be divisible by the
    model axis. Everything else is on every device: biases, batch normalization and all LAuReL weights, whose rank may
    be smaller than the axis.

    Args:
        device_mesh: A `keras.distribution.DeviceMesh`.
        model_parallel_dim_name: Name of the mesh's model axis.

    Raises:
        ValueError: If `device_mesh` is no mesh or lacks the axis.
    """
    if not isinstance(device_mesh, keras.distribution.DeviceMesh):
        raise ValueError(f"Expected a `keras.distribution.DeviceMesh`. Received: device_mesh={device_mesh!r}")
    model = model_parallel_dim_name
    if model not in device_mesh.axis_names:
        raise ValueError(f"Expected a mesh with an axis {model!r}. Received: axis_names={device_mesh.axis_names}")
    # Keys match whole paths: ".*" finds the weights in nested models too.
    layout = keras.distribution.LayoutMap(device_mesh)
    layout[".*conv[1-5]_(block[0-9]+_[0-3]_)?conv/kernel"] = (None, None, None, model)
    layout[".*predictions/kernel"] = (model, None)
    layout[".*_laurel/.*(?<!/output)"] = ()  # which is what the join returns, divided by examples
    return layout

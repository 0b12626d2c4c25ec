import re

import keras
import numpy as np
import pytest

from keras_laurel.applications import LaurelResNet50, laurel_resnet50_layout_map

MESH = keras.distribution.DeviceMesh((2, 4), ("batch", "model"), np.array([f"cpu:{i}" for i in range(8)]))


@pytest.mark.parametrize("prefix", ["", "model/resnet/"])
@pytest.mark.parametrize("residual", ["add", "rw+lr+pa"])
def test_every_kernel_has_one_layout(residual, prefix):
    shape = {"input_shape": (32, 32, 3), "classes": 3, "num_blocks": (2, 1), "filters": (2, 4)}
    model = LaurelResNet50(weights=None, residual=residual, rank=None if residual == "add" else 2, **shape)
    layout = laurel_resnet50_layout_map(MESH)
    for weight in model.weights:
        keys = [key for key in layout if re.fullmatch(key, prefix + weight.path)]
        kernel = weight.path.endswith("kernel") and "laurel" not in weight.path
        assert len(keys) == (1 if kernel or "laurel" in weight.path else 0), weight.path
        if keys:
            assert len(layout[keys[0]].axes) == (len(weight.shape) if kernel else 0), weight.path


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("mesh",), "Received: device_mesh='mesh'"),
        ((MESH, "heads"), r"an axis 'heads'. Received: axis_names=\('batch', 'model'\)"),
    ],
)
def test_error_names_what_was_expected_and_received(arguments, message):
    with pytest.raises(ValueError, match=message):
        laurel_resnet50_layout_map(*arguments)

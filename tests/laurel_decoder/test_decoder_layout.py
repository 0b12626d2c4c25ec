import re

import keras
import numpy as np
import pytest
from decoders import VARIANTS, backbone

from keras_laurel.applications import LaurelDecoderBackbone
from keras_laurel.applications.laurel_decoder.mixers import MIXERS
from keras_laurel.monitoring import laurel_joins

MESH = keras.distribution.DeviceMesh((2, 4), ("batch", "model"), np.array([f"cpu:{i}" for i in range(8)]))


# Convolutions and scans, the maps of a gate, and features that all heads share.
WHOLE = re.compile(r"/mamba/|hyena(_experts)?/|/router/|/gate_(down|up)/|_features_")


def model_of(name):
    return backbone("rw", mixers=name) if name in MIXERS else backbone(name)


@pytest.mark.parametrize("prefix", ["", "lm/decoder/"])
@pytest.mark.parametrize("variant", [*VARIANTS, *MIXERS])
def test_every_weight_matches_one_key_or_is_meant_to_be_replicated(variant, prefix):
    model, layout = model_of(variant), LaurelDecoderBackbone.get_layout_map(MESH)
    laurel = {id(weight) for join in laurel_joins(model).values() for weight in join.weights}
    for weight in model.weights:
        keys = [key for key in layout if re.fullmatch(key, prefix + weight.path)]
        small = id(weight) in laurel or "position_embedding" in weight.path or WHOLE.search(weight.path)
        norm = len(weight.shape) == 1 and not small
        assert len(keys) == (0 if norm else 1), weight.path
        if keys:
            assert len(layout[keys[0]].axes) == (0 if small else len(weight.shape)), weight.path


def test_every_key_divides_a_weight_or_what_a_join_returns():
    models = [model_of(name) for name in (*VARIANTS, *MIXERS)]
    paths = [weight.path for model in models for weight in model.weights]
    outputs = [f"{join.path}/output" for model in models for join in laurel_joins(model).values()]
    layout = LaurelDecoderBackbone.get_layout_map(MESH)
    for key in layout:
        assert any(re.fullmatch(key, path) for path in paths + outputs), key
    assert {layout[output].axes for output in outputs} == {("batch", None, None)}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("mesh",), "Received: device_mesh='mesh'"),
        ((MESH, "heads"), r"an axis 'heads'. Received: axis_names=\('batch', 'model'\)"),
        ((MESH, "model", "data"), r"an axis 'data'. Received: axis_names=\('batch', 'model'\)"),
    ],
)
def test_error_names_what_was_expected_and_received(arguments, message):
    with pytest.raises(ValueError, match=message):
        LaurelDecoderBackbone.get_layout_map(*arguments)

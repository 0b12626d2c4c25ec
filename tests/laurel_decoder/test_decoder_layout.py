import re

import keras
import numpy as np
import pytest
from decoders import VARIANTS, backbone
from processes import run_python

from keras_laurel.applications import LaurelDecoderBackbone
from keras_laurel.applications.laurel_decoder.mixers import MIXERS
from keras_laurel.monitoring import laurel_joins

MESH = keras.distribution.DeviceMesh((2, 4), ("batch", "model"), np.array([f"cpu:{i}" for i in range(8)]))


# Convolutions and scans, the maps of a gate, and features that all heads share.
WHOLE = re.compile(r"/mamba/|hyena/|/gate_(down|up)/|_features_")


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


TRAIN = """
import os, sys
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=4"
import keras
import numpy as np
from keras_laurel.applications import LaurelCausalLM, LaurelDecoderBackbone
if sys.argv[1] == "divided":
    mesh = keras.distribution.DeviceMesh((2, 2), ("batch", "model"), keras.distribution.list_devices())
    layout = LaurelDecoderBackbone.get_layout_map(mesh)
    keras.distribution.set_distribution(keras.distribution.ModelParallel(layout_map=layout, batch_dim_name="batch"))
model = LaurelCausalLM(LaurelDecoderBackbone(8, 2, 2, 8, 4, residual="rw+lr+pa", rank=1))
rng = np.random.default_rng(0)
for weight in model.weights:
    weight.assign(0.3 * rng.normal(size=weight.shape))
model.compile(keras.optimizers.SGD(0.1), keras.losses.SparseCategoricalCrossentropy(True), weighted_metrics=[])
tokens = rng.integers(8, size=(4, 6)).astype("int32")
losses = [float(model.train_on_batch(tokens, np.roll(tokens, -1, axis=1))) for _ in range(3)]
kernel = model.backbone.transformer_layers[0].mixer.query.kernel
join = model.backbone.transformer_layers[0].joins[0].augmentation.low_rank.up.kernel
print(*losses, kernel.value.addressable_data(0).shape, join.value.addressable_data(0).shape, sep="|")
"""


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="keras.distribution runs under JAX alone (Keras 3.15)")
def test_a_divided_model_trains_as_a_whole_one():
    whole, divided = (run_python(TRAIN, how, backend="jax").splitlines()[-1].split("|") for how in ("whole", "divided"))
    assert [float(loss) for loss in divided[:3]] == pytest.approx([float(loss) for loss in whole[:3]], rel=1e-5)
    assert (whole[3], divided[3]) == ("(8, 2, 4)", "(4, 1, 4)")
    assert whole[4] == divided[4] == "(3, 8)"

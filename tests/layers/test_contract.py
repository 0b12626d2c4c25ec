"""What every variant of the join must do, on every backend."""

import inspect

import keras
import numpy as np
import pytest
import reference
from keras import ops
from variants import VARIANTS, assert_close, num_inputs, random_inputs, random_join, shape_of, to_numpy, weights_of

import keras_laurel
from keras_laurel import Laurel

each_variant = pytest.mark.parametrize("config", [pytest.param(c, id=name) for name, c in VARIANTS.items()])


def functional(join, config, **kwargs):
    inputs = [keras.Input(batch_shape=shape_of(config)) for _ in range(num_inputs(config))]
    return keras.Model(inputs, join(inputs, **kwargs))


@each_variant
def test_config_names_every_argument_and_holds_what_was_given(config):
    given = Laurel(**config, name="join", dtype="mixed_bfloat16", trainable=False).get_config()
    own = [a for a in inspect.signature(Laurel.__init__).parameters if a not in ("self", "kwargs")]
    assert set(given) == {*own, "name", "dtype", "trainable"}
    assert {key: given[key] for key in config if key != "down_initializer"} == {
        key: value for key, value in config.items() if key != "down_initializer"
    }
    assert (given["name"], given["trainable"]) == ("join", False)
    assert given["dtype"]["config"]["name"] == "mixed_bfloat16"


@each_variant
def test_config_survives_build_and_makes_an_equal_layer(config):
    join = Laurel(**config)
    before = join.get_config()
    join(random_inputs(config))
    assert join.get_config() == before
    assert Laurel.from_config(before).get_config() == before


@each_variant
def test_new_layer_returns_x_plus_fx_bit_for_bit(config):
    x, fx, *previous = random_inputs(config)
    assert np.array_equal(to_numpy(Laurel(**config)([x, fx, *previous])), x + fx)


@pytest.mark.parametrize("ndim", [2, 3, 4, 5])
@each_variant
def test_equals_the_formula_at_random_weights(config, ndim):
    join, inputs = random_join(config, ndim), random_inputs(config, ndim)
    assert_close(to_numpy(join(inputs)), reference.laurel(inputs, weights_of(join), **config))


class JoinOfWeights(keras.layers.Layer):
    """Joins weights of its own, so that a step of SGD moves the join's inputs too. Never drops a path."""

    def __init__(self, join, arrays, as_in_training):
        super().__init__()
        self.join = join
        self.as_in_training = as_in_training
        self.held = [self.add_weight(shape=array.shape, name=f"input_{j}") for j, array in enumerate(arrays)]
        for weight, array in zip(self.held, arrays):
            weight.assign(array)

    def call(self, _):
        return self.join([ops.convert_to_tensor(weight) for weight in self.held], training=self.as_in_training)


# The reference draws nothing, so it has no `drop_path` in training.
@pytest.mark.parametrize(
    ("config", "training"),
    [
        pytest.param(config, training, id=f"{name}-{training}")
        for name, config in VARIANTS.items()
        for training in (False, True)
        if not (training and config.get("drop_path"))
    ],
)
def test_gradients_of_weights_and_inputs_equal_finite_differences(config, training):
    arrays, join = random_inputs(config), random_join(config)
    layer = JoinOfWeights(join, arrays, training)
    # Eagerly: TensorFlow's graphs without XLA let a step overwrite weights that its own gradients still read.
    cotangent = np.random.default_rng(2).normal(size=shape_of(config))
    model = keras.Sequential([keras.Input(batch_shape=(2, 1)), layer])
    model.compile(keras.optimizers.SGD(1.0), loss=lambda target, y: ops.sum(target * y), run_eagerly=True)

    before = weights_of(layer)
    model.train_on_batch(np.zeros((2, 1)), cotangent.astype("float32"))
    after = weights_of(layer)

    def loss():
        return np.sum(
            cotangent * reference.laurel([before[f"input_{j}"] for j in range(len(arrays))], before, **config)
        )

    for key, value in before.items():
        expected = np.zeros_like(value)
        for index in np.ndindex(value.shape):
            # Central differences are off by step**2 / 6 of a third derivative and by 1e-16 / step of the loss.
            old, step = value[index], 1e-5
            value[index] = old + step
            above = loss()
            value[index] = old - step
            expected[index] = (above - loss()) / (2 * step)
            value[index] = old
        assert_close(value - after[key], expected)


@pytest.mark.parametrize("config", [pytest.param(c, id=name) for name, c in VARIANTS.items() if name != "plain"])
def test_every_weight_moves_within_three_steps(config):
    join = Laurel(**config)
    model = functional(join, config)
    model.compile(keras.optimizers.SGD(0.1), loss="mse", run_eagerly=True)
    before = weights_of(join)
    for step in range(3):
        model.train_on_batch(random_inputs(config, seed=step), np.zeros(shape_of(config)))
    assert len(before) == len(join.trainable_weights) > 0
    assert all(np.all(weights_of(join)[name] != before[name]) for name in before)


@each_variant
def test_saved_model_has_the_same_output_after_loading(config, tmp_path):
    model, inputs = functional(random_join(config), config), random_inputs(config)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert np.array_equal(to_numpy(loaded(inputs)), to_numpy(model(inputs)))


class MaskProbe(keras.layers.Layer):
    """Returns the mask that reaches it as numbers, or -1 for none."""

    def __init__(self):
        super().__init__()
        self.supports_masking = True

    def call(self, x, mask=None):
        return -ops.ones_like(x[..., 0]) if mask is None else ops.cast(mask, "float32")


@pytest.mark.parametrize("masked", ["x and fx", "x", "fx", "all"])
@each_variant
def test_mask_passes_as_through_keras_add(config, masked):
    arrays = random_inputs(config)
    arrays[0][0, 1:] = arrays[1][0, 2:] = 0.0  # `Masking` masks zeros; these two masks differ at position 1
    inputs = [keras.Input(batch_shape=array.shape) for array in arrays]
    has_mask = [masked != "fx", masked != "x", *[masked == "all"] * (len(arrays) - 2)]
    tensors = [keras.layers.Masking()(t) if m else t for t, m in zip(inputs, has_mask)]
    outputs = [MaskProbe()(join(t)) for join, t in [(Laurel(**config), tensors), (keras.layers.Add(), tensors[:2])]]
    actual, expected = keras.Model(inputs, outputs)(arrays)
    assert np.array_equal(to_numpy(actual), to_numpy(expected))
    if has_mask[:2] == [True, True]:
        assert to_numpy(actual)[0, :3].tolist() == [1.0, 1.0, 0.0]


@pytest.mark.parametrize(
    ("policy", "roundoff"), [("mixed_bfloat16", 2**-8), ("bfloat16", 2**-8), ("mixed_float16", 2**-11)]
)
@each_variant
def test_half_precision_rounds_once_and_keeps_scalars_in_float32(config, policy, roundoff):
    join, rng = random_join(config, dtype=policy), np.random.default_rng(3)
    # Small integers go through the matmuls of the low-rank map exactly, in half precision too. So all that is left is
    # float32 arithmetic (logits, gain and the `gamma` of the identity are not integers) and one rounding at the end.
    for weight in join.trainable_weights:
        if weight.path.endswith("kernel") or (weight.path.endswith("gamma") and config.get("rank")):
            weight.assign(rng.choice([-2, -1, 1, 2], size=weight.shape))
        else:
            assert keras.backend.standardize_dtype(weight.dtype) == "float32"
    inputs = [rng.integers(-2, 3, size=shape_of(config)).astype("float32") for _ in range(num_inputs(config))]
    y = join(inputs)
    assert keras.backend.standardize_dtype(y.dtype) == join.compute_dtype == policy.removeprefix("mixed_")
    expected = reference.laurel(inputs, weights_of(join), **config)
    float32_error = 64 * 2**-24 * np.max(np.abs(expected))
    assert np.all(np.abs(to_numpy(y) - expected) <= roundoff * np.abs(expected) + float32_error)


@each_variant
def test_float64_policy_computes_as_widely_as_the_backend_does(config, float64):
    inputs = [array.astype("float64") / 3 for array in random_inputs(config)]
    join = random_join(config, dtype="float64")
    y = join(inputs)
    assert keras.backend.standardize_dtype(y.dtype) == "float64"
    # Keras promotes a float64 to float32 in matmuls and norms, except on TensorFlow.
    roundoff = {"float32": 2**-24, "float64": 2**-53}[keras.backend.result_type("float64", "float64")]
    assert_close(to_numpy(y), reference.laurel(inputs, weights_of(join), **config), 64 * roundoff)


@each_variant
def test_one_model_takes_any_batch_and_spatial_sizes(config):
    shape = (4, None, None) if config.get("axis") == 1 else (None, None, 4)
    inputs = [keras.Input(shape) for _ in range(num_inputs(config))]
    join = Laurel(**config)
    model = keras.Model(inputs, join(inputs))
    assert model.output.shape == (None, *shape)
    for size in ((2, 3, 1), (1, 2, 3)):
        sizes = (size[0], 4, *size[1:]) if config.get("axis") == 1 else (*size, 4)
        arrays = list(np.random.default_rng(4).normal(size=(num_inputs(config), *sizes)).astype("float32"))
        assert_close(to_numpy(model(arrays)), reference.laurel(arrays, weights_of(join), **config))


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
@each_variant
def test_symbolic_output_has_shape_and_dtype_of_the_eager_one(config, policy):
    join, inputs = Laurel(**config, dtype=policy), random_inputs(config)
    eager = join(inputs)
    symbolic = [keras.KerasTensor(array.shape, dtype="float32") for array in inputs]
    for spec in (join(symbolic), join.compute_output_spec(symbolic)):
        assert spec.shape == tuple(eager.shape) == join.compute_output_shape([array.shape for array in inputs])
        assert spec.dtype == keras.backend.standardize_dtype(eager.dtype)


@pytest.mark.parametrize("ndim", [2, 3, 4, 5])
@each_variant
def test_channels_first_equals_transposed_channels_last(config, ndim):
    config = {**config, "axis": -1}
    last, first = random_join(config, ndim), Laurel(**{**config, "axis": 1})
    inputs = random_inputs(config, ndim)
    transposed = [np.moveaxis(array, -1, 1) for array in inputs]
    first.build([array.shape for array in transposed])
    first.set_weights(last.get_weights())
    assert_close(np.moveaxis(to_numpy(first(transposed)), 1, -1), to_numpy(last(inputs)))


# One model with all variants, as torch takes more than a minute to compile it, and longer for many.
@pytest.mark.slow_on("torch")
@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch", "ignore::FutureWarning:torch")
def test_predictions_are_the_same_compiled_and_not():
    arrays = random_inputs(VARIANTS["pa"])
    inputs = [keras.Input((None, 4)) for _ in arrays]
    channels_first = [ops.moveaxis(tensor, -1, 1) for tensor in inputs]
    joins = [random_join(config) for config in VARIANTS.values()]
    outputs = [
        join((channels_first if join.axis == 1 else inputs)[: num_inputs(config)])
        for join, config in zip(joins, VARIANTS.values())
    ]
    model = keras.Model(inputs, outputs)
    for jit_compile in (False, True):
        model.compile(jit_compile=jit_compile)
        for join, config, y in zip(joins, VARIANTS.values(), model.predict(arrays, verbose=0)):
            given = [np.moveaxis(a, -1, join.axis) for a in arrays[: num_inputs(config)]]
            assert_close(y, reference.laurel(given, weights_of(join), **config))


@pytest.mark.parametrize(
    ("named", "settings"),
    [
        (keras_laurel.LaurelRW(), {"residual_weights": "softmax"}),
        (keras_laurel.LaurelRW("single", per_channel=True), {"residual_weights": "single", "per_channel": True}),
        (keras_laurel.LaurelLR(rank=2), {"rank": 2}),
        (keras_laurel.LaurelLR(3, norm="rms"), {"rank": 3, "norm": "rms"}),
        (keras_laurel.LaurelPA(), {"num_activations": 3}),
        (keras_laurel.LaurelPA(previous="first"), {"num_activations": 1, "previous": "first"}),
        (keras_laurel.LaurelPA(2, rank=2), {"num_activations": 2, "rank": 2}),
    ],
)
def test_named_variant_equals_laurel_with_its_settings_and_loads_as_itself(named, settings, tmp_path):
    join, inputs = random_join(settings), random_inputs(settings)
    model = functional(named, settings)
    named.set_weights(join.get_weights())
    assert {**named.get_config(), "name": ""} == {**join.get_config(), "name": ""}
    assert np.array_equal(to_numpy(named(inputs)), to_numpy(join(inputs)))
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert type(loaded.layers[-1]) is type(named)
    assert np.array_equal(to_numpy(loaded(inputs)), to_numpy(model(inputs)))


@pytest.mark.parametrize(
    "layer",
    [
        keras_laurel.layers.ResidualWeights("free", scale=3.0, per_channel=True, name="a", dtype="mixed_float16"),
        keras_laurel.layers.LowRank(
            2, keras_laurel.initializers.ColumnOrthogonal(), "ones", name="a", dtype="mixed_float16"
        ),
        keras_laurel.layers.PreviousActivations(2, 1, "ones", "zeros", "ones", name="a", dtype="mixed_float16"),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_config_of_each_part_names_every_argument_and_makes_an_equal_layer(layer):
    before = layer.get_config()
    own = [a for a in inspect.signature(type(layer).__init__).parameters if a not in ("self", "kwargs")]
    assert set(before) == {*own, "name", "dtype", "trainable"}
    layer.build([(2, 4), (2, 4)] if isinstance(layer, keras_laurel.layers.PreviousActivations) else (2, 4))
    assert layer.get_config() == before
    assert type(layer).from_config(before).get_config() == before

"""Blocks that hide their joins are wrapped whole; keras_hub's models go on decoding with them."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_laurel
from keras_laurel.retrofit import LaurelWrapper, find_joins, laurelize
from keras_laurel.retrofit.laurelized import Laurelized

X = np.random.default_rng(0).normal(size=(2, 3, 4)).astype("float32")


@keras.saving.register_keras_serializable("test_retrofit")
class Block(layers.Layer):
    """A block of a user: `x + dense(x)`, and more outputs if asked."""

    def build(self, input_shape):
        self.dense = layers.Dense(input_shape[-1], "tanh", name="dense", dtype=self.dtype_policy)
        self.dense.build(input_shape)

    def call(self, stream, scale=None, cache=None, cache_index=None):
        y = stream + self.dense(stream) * (1.0 if scale is None else scale)
        return y if cache is None else (y, cache + cache_index)


def stack(num_blocks=4):
    inputs = x = keras.Input((3, 4))
    for i in range(num_blocks):
        x = Block(name=f"block{i}")(x)
    return keras.Model(inputs, x)


def numpy(x):
    return ops.convert_to_numpy(x)


def randomize(model, seed=1):
    random = np.random.default_rng(seed)
    for weight in keras_laurel.laurel_weights(model):
        weight.assign(random.normal(size=weight.shape))


def wrappers(model):
    return [layer for layer in model.layers if isinstance(layer, LaurelWrapper)]


@pytest.mark.parametrize("kind", ["add", "rw", "lr", "pa", "rw+lr+pa"])
def test_a_wrapped_stack_starts_unchanged_and_follows_the_equation(kind):
    model = stack()
    new = laurelize(model, kind, rank=2, wrap=Block)
    np.testing.assert_array_equal(numpy(new(X)), numpy(model(X)))
    assert [w.name for w in wrappers(new)] == [f"block{i}_laurel" for i in range(4)]
    assert [w.num_previous for w in wrappers(new)] == ([0, 1, 2, 2] if "pa" in kind else [0] * 4)
    randomize(new)
    # The same joins, told x and f(x) = block(x) - x.
    x, history = ops.convert_to_tensor(X), keras_laurel.History()
    for wrapper in wrappers(new):
        x = history.join(wrapper.join, x, wrapper.layer(x) - x)
    np.testing.assert_allclose(numpy(new(X)), numpy(x), rtol=1e-4, atol=1e-5)


def test_first_state_norm_and_vectors():
    new = laurelize(stack(3), "rw+lr+pa", rank=2, previous="first", norm="rms", per_channel=True, wrap=Block)
    np.testing.assert_array_equal(numpy(new(X)), numpy(laurelize(new_base(new), "add", wrap=Block)(X)))
    randomize(new)
    x, history = ops.convert_to_tensor(X), keras_laurel.History()
    for wrapper in wrappers(new):
        x = history.join(wrapper.join, x, wrapper.layer(x) - x)
    np.testing.assert_allclose(numpy(new(X)), numpy(x), rtol=1e-4, atol=1e-5)


def new_base(new):
    """The plain stack of the blocks that `new` wraps."""
    inputs = x = keras.Input((3, 4))
    for wrapper in wrappers(new):
        x = wrapper.layer(x)
    return keras.Model(inputs, x)


def test_drop_path_drops_the_branch_of_an_example():
    block, x = Block(), np.ones((200, 1, 4), "float32")
    wrapper = LaurelWrapper(block, keras_laurel.Laurel(drop_path=0.5, seed=0))
    np.testing.assert_array_equal(numpy(wrapper(x)), numpy(block(x)))
    y, branch = numpy(wrapper(x, training=True)), numpy(block(x)) - x
    dropped = np.isclose(y, x).all((1, 2))
    np.testing.assert_allclose(y[~dropped], (x + 2 * branch)[~dropped], rtol=1e-5)
    assert 60 < dropped.sum() < 140


def test_other_arguments_and_outputs_pass_through():
    block = Block()
    wrapper = LaurelWrapper(block, keras_laurel.LaurelRW())
    cache = np.zeros((2,), "float32")
    y, new_cache = wrapper(X, scale=2.0, cache=cache, cache_index=3)  # a tensor and a number, as keras_hub passes
    np.testing.assert_array_equal(numpy(y), numpy(block(X, scale=2.0)))
    np.testing.assert_array_equal(numpy(new_cache), [3, 3])
    np.testing.assert_array_equal(numpy(wrapper(stream=X)), numpy(block(X)))


def test_mask_passes():
    wrapper = LaurelWrapper(layers.Dense(4), keras_laurel.LaurelRW())
    assert wrapper.supports_masking
    assert wrapper.compute_mask(X, "mask") == "mask"


def test_blocks_of_a_sequential_by_predicate():
    model = keras.Sequential([keras.Input((3, 4)), *(Block(name=f"b{i}") for i in range(3)), layers.Flatten()])
    new = laurelize(model, "pa", wrap=lambda layer: layer.name in ("b1", "b2"))
    np.testing.assert_array_equal(numpy(new(X)), numpy(model(X)))
    assert [(w.name, w.num_previous) for w in wrappers(new)] == [("b1_laurel", 0), ("b2_laurel", 1)]


def test_adds_and_blocks_share_one_stream():
    inputs = x = keras.Input((3, 4))
    x = Block(name="a")(x)
    x = layers.Add(name="b_add")([x, layers.Dense(4)(x)])
    model = keras.Model(inputs, Block(name="c")(x))
    report = find_joins(model, Block)
    assert [(join.name, join.kind, join.num_previous) for join in report.joins] == [
        ("a_laurel", "Block", 0),
        ("b_laurel", "Add", 1),
        ("c_laurel", "Block", 2),
    ]
    np.testing.assert_array_equal(numpy(laurelize(model, "rw+pa", wrap=(Block,))(X)), numpy(model(X)))


@pytest.mark.parametrize(
    "trainable",
    ["from_first_laurel", *(pytest.param(kind, marks=pytest.mark.slow_on("tensorflow")) for kind in ("all", "laurel"))],
)
def test_fit_save_and_clone(trainable, tmp_path):
    new = laurelize(stack(), "rw+lr+pa", rank=2, wrap=Block, trainable=trainable)
    blocks = [bool(wrapper.layer.trainable_weights) for wrapper in wrappers(new)]
    assert (
        blocks == {"all": [True] * 4, "laurel": [False] * 4, "from_first_laurel": [False, True, True, True]}[trainable]
    )
    new.compile(keras.optimizers.Adam(0.03), "mse")
    losses = new.fit(X, X[::-1], epochs=5, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    new.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras", compile=False)
    np.testing.assert_array_equal(numpy(loaded(X)), numpy(new(X)))
    assert len(loaded.trainable_weights) == len(new.trainable_weights)
    clone = keras.models.clone_model(new)
    clone.set_weights(new.get_weights())
    np.testing.assert_array_equal(numpy(clone(X)), numpy(new(X)))


def test_half_precision():
    inputs = keras.Input((3, 4))
    model = keras.Model(inputs, Block(dtype="mixed_bfloat16")(inputs))
    new = laurelize(model, wrap=Block)
    assert wrappers(new)[0].join.compute_dtype == "bfloat16"
    np.testing.assert_array_equal(numpy(ops.cast(new(X), "float32")), numpy(ops.cast(model(X), "float32")))


def test_what_cannot_be_wrapped():
    inputs = keras.Input((3, 4))
    block = Block(name="twice")
    with pytest.raises(ValueError, match=r"called once.*Received: block 'twice', which is called 2 times"):
        laurelize(keras.Model(inputs, block(block(inputs))), wrap=Block)
    with pytest.raises(ValueError, match=r"shape of its first argument. Received: block 'narrow' with shapes"):
        laurelize(keras.Model(inputs, layers.Dense(2, name="narrow")(inputs)), wrap=layers.Dense)
    with pytest.raises(ValueError, match=r"`wrap` to meet a layer.*Received: wrap=.*Conv2D.*which meets none"):
        laurelize(stack(), wrap=layers.Conv2D)
    with pytest.raises(ValueError, match=r"meets none[\s\S]*block0 +Block +hides 'dense' \(Dense\) from the graph"):
        laurelize(stack(), wrap=layers.Dense)
    with pytest.raises(ValueError, match=r"`join` to be a `Laurel` layer. Received: join=<Add"):
        LaurelWrapper(Block(), layers.Add())
    with pytest.raises(ValueError, match=r"Expected 1 earlier states. Received: 0"):
        LaurelWrapper(Block(), keras_laurel.LaurelPA(), num_previous=1)(X)


@keras.saving.register_keras_serializable("test_retrofit")
class Loop(keras.Model):
    """A model that draws its own graph, and can also run its blocks in a loop, as keras_hub's do to decode."""

    def __init__(self, num_blocks=4, **kwargs):
        self.blocks = [Block(name=f"block{i}") for i in range(num_blocks)]
        inputs = x = keras.Input((3, 4))
        for block in self.blocks:
            x = block(x)
        super().__init__(inputs, x, **kwargs)
        self.num_blocks = num_blocks

    def loop(self, x):
        for block in self.blocks:
            x, _ = block(stream=x, cache=np.zeros((1,), "float32"), cache_index=0)
        return x

    def get_config(self):
        return {"name": self.name, "num_blocks": self.num_blocks}

    @classmethod
    def from_config(cls, config):
        return cls(**config)


@pytest.mark.parametrize("kwargs", [{}, {"num_activations": 2}, {"previous": "first"}])
def test_earlier_states_go_through_a_loop_of_the_model(kwargs):
    model = Loop()
    new = laurelize(model, "rw+lr+pa", rank=2, wrap=Block, **kwargs)
    assert isinstance(new, Loop)
    np.testing.assert_array_equal(numpy(new.loop(X)), numpy(model.loop(X)))
    randomize(new)
    np.testing.assert_allclose(numpy(new.loop(X)), numpy(new(X)), rtol=1e-5, atol=1e-6)


def test_a_class_of_another_process_is_loaded(tmp_path, monkeypatch):
    new = laurelize(Loop(), "rw+pa", wrap=Block, trainable="laurel")
    randomize(new)
    new.save(tmp_path / "model.keras")
    monkeypatch.setitem(keras.saving.get_custom_objects(), "keras_laurel>Laurelized", Laurelized)  # as after import
    loaded = keras.models.load_model(tmp_path / "model.keras", compile=False)
    assert isinstance(loaded, Loop)
    np.testing.assert_array_equal(numpy(loaded.loop(X)), numpy(new.loop(X)))
    assert len(loaded.trainable_weights) == len(new.trainable_weights)


def test_a_loop_that_some_blocks_leave_plain():
    some = [lambda layer: layer.name in ("block1", "block2"), lambda layer: layer.name in ("block0", "block2")]
    new = laurelize(Loop(), "rw+pa", wrap=some[0])
    randomize(new)
    np.testing.assert_allclose(numpy(new.loop(X)), numpy(new(X)), rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match=r"follow a wrapped block.*Received: block 'block2' in `blocks`"):
        laurelize(Loop(), "rw+pa", wrap=some[1])
    new = laurelize(Loop(), "rw", wrap=some[1])
    np.testing.assert_array_equal(numpy(new.loop(X)), numpy(new(X)))


# keras_hub

TOKENS = np.array([[1, 2, 3, 0, 0, 0], [1, 7, 3, 0, 0, 0]])
PROMPT = {"token_ids": TOKENS, "padding_mask": (TOKENS > 0).astype("int32")}
ALL = {"token_ids": TOKENS, "padding_mask": np.ones_like(TOKENS)}
on_quantize = pytest.mark.filterwarnings("ignore:.*does not have a `quantize` method implemented")  # Keras, per layer


def hub():
    import keras_hub  # here, since it takes seconds

    return keras_hub.models


def llama(num_layers=3):
    backbone = hub().LlamaBackbone(
        vocabulary_size=20,
        num_layers=num_layers,
        num_query_heads=2,
        hidden_dim=8,
        intermediate_dim=16,
        num_key_value_heads=1,
    )
    return spread(hub().LlamaCausalLM(backbone, preprocessor=None))


def gpt2():
    backbone = hub().GPT2Backbone(
        vocabulary_size=20, num_layers=3, num_heads=2, hidden_dim=8, intermediate_dim=16, max_sequence_length=6
    )
    return spread(hub().GPT2CausalLM(backbone, preprocessor=None))


def spread(model):
    """Gives a new model weights that tell tokens apart."""
    random = np.random.default_rng(0)
    for weight in model.weights:
        weight.assign(random.normal(size=weight.shape) * 0.5)
    return model


def block_class(model):
    return type(model.backbone.transformer_layers[0])


def generated(model):
    model.compile(sampler="greedy")
    return model.generate(dict(PROMPT), stop_token_ids=None)["token_ids"]


def generated_without_cache(model):
    tokens = TOKENS.copy()
    for position in range(3, 6):
        logits = numpy(model({**ALL, "token_ids": tokens}))
        tokens[:, position] = logits[:, position - 1].argmax(-1)
    return tokens


@pytest.mark.parametrize("make", [pytest.param(llama, marks=pytest.mark.slow_on("jax", "tensorflow")), gpt2])
def test_causal_lm(make, tmp_path):
    model = make()
    new = laurelize(model, "rw+lr+pa", rank=2, wrap=block_class(model))
    assert isinstance(new, type(model))
    assert isinstance(new.backbone, type(model.backbone))
    assert [w.num_previous for w in wrappers(new.backbone)] == [0, 1, 2]
    np.testing.assert_array_equal(numpy(new(ALL)), numpy(model(ALL)))
    before = generated(model)
    np.testing.assert_array_equal(generated(new), before)
    randomize(new)
    after = generated(new)
    np.testing.assert_array_equal(after, generated_without_cache(new))
    assert not np.array_equal(after, before)
    new.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras", compile=False)
    np.testing.assert_array_equal(numpy(loaded(ALL)), numpy(new(ALL)))
    np.testing.assert_array_equal(numpy(cached_logits(loaded)), numpy(cached_logits(new)))


def cached_logits(model):
    cache = np.zeros((2, 3, 2, 6, 1, 4), "float32")
    if type(model).__name__ == "GPT2CausalLM":
        cache = np.zeros((2, 3, 2, 6, 2, 4), "float32")
    return model.call_with_cache(ops.convert_to_tensor(TOKENS), ops.convert_to_tensor(cache), 0)[0]


@pytest.mark.parametrize(("kind", "kwargs"), [("rw", {}), ("pa", {}), ("pa", {"previous": "first"})])
def test_logits_with_a_cache_are_those_without(kind, kwargs):
    model = llama()
    new = laurelize(model, kind, wrap=block_class(model), **kwargs)
    randomize(new)
    np.testing.assert_allclose(numpy(cached_logits(new)), numpy(new(ALL)), rtol=1e-4, atol=1e-5)
    assert not np.allclose(numpy(new(ALL)), numpy(model(ALL)))


@pytest.mark.filterwarnings("ignore:.*`shuffle=True` was passed, but will be ignored")  # keras_hub feeds a dataset
def test_causal_lm_trains():
    model = llama(2)
    new = laurelize(model, "rw+lr", rank=2, wrap=block_class(model), trainable="laurel")
    assert len(new.trainable_weights) == 2 * 3
    new.compile(keras.optimizers.Adam(0.03), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    losses = new.fit(ALL, np.roll(TOKENS, -1, 1), epochs=4, verbose=0).history["loss"]
    assert losses[-1] < losses[0]


def test_a_task_can_be_built_on_a_retrofitted_backbone():
    model = llama(2)
    backbone = laurelize(model.backbone, wrap=block_class(model))
    new = hub().LlamaCausalLM(backbone, preprocessor=None)
    np.testing.assert_array_equal(numpy(new(ALL)), numpy(model(ALL)))


@on_quantize
def test_int8_causal_lm(tmp_path):
    model = llama(2)
    model.quantize("int8")
    new = laurelize(model, "rw+lr", rank=2, wrap=block_class(model), trainable="laurel")
    np.testing.assert_array_equal(numpy(new(ALL)), numpy(model(ALL)))
    new.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras", compile=False)
    np.testing.assert_array_equal(numpy(loaded(ALL)), numpy(new(ALL)))
    assert len(loaded.trainable_weights) == len(new.trainable_weights)


def test_embeddings_and_blocks_of_gpt2():
    model = gpt2()
    report = find_joins(model, block_class(model))
    assert [join.replaces for join in report.joins] == [f"transformer_layer_{i}" for i in range(3)]
    assert [(entry.name, entry.reason) for entry in report.left_alone] == [
        ("embeddings_add", "joins no branch to its own input")
    ]


def resnet_backbone():
    return hub().ResNetBackbone(
        input_conv_filters=[64],
        input_conv_kernel_sizes=[3],
        stackwise_num_filters=[64, 64],
        stackwise_num_blocks=[1, 2],
        stackwise_num_strides=[1, 2],
        block_type="basic_block",
        image_shape=(16, 16, 3),
    )


def test_an_image_classifier_is_retrofitted_in_its_backbone():
    model = hub().ResNetImageClassifier(resnet_backbone(), num_classes=2)
    images = np.random.default_rng(0).normal(size=(2, 16, 16, 3)).astype("float32")
    new = laurelize(model, "rw+lr", rank=2)
    assert isinstance(new, type(model))
    assert new.count_params() > model.count_params()
    np.testing.assert_array_equal(numpy(new(images)), numpy(model(images)))


def test_resnet_backbone(tmp_path):
    model = resnet_backbone()
    images = np.random.default_rng(0).normal(size=(2, 16, 16, 3)).astype("float32")
    assert [join.num_previous for join in find_joins(model).joins] == [0, 0, 1]
    new = laurelize(model, "rw+pa")
    assert isinstance(new, type(model))
    np.testing.assert_array_equal(numpy(new(images)), numpy(model(images)))
    pyramid = keras.Model(new.input, new.pyramid_outputs)(images)
    np.testing.assert_array_equal(numpy(pyramid["P3"]), numpy(new(images)))
    randomize(new)
    new.save(tmp_path / "model.keras")
    np.testing.assert_array_equal(
        numpy(keras.models.load_model(tmp_path / "model.keras", compile=False)(images)), numpy(new(images))
    )


def test_what_sits_deeper_is_refused_with_the_layer_to_wrap():
    model = hub().ViTBackbone((16, 16, 3), 8, num_layers=2, num_heads=2, hidden_dim=8, mlp_dim=16)
    encoder = model.get_layer("vit_encoder")
    block = type(encoder.encoder_layers[0])
    with pytest.raises(ValueError, match=r"vit_encoder +ViTEncoder +hides 'transformer_block_1'.*wrap this layer"):
        laurelize(model, wrap=block)
    new = laurelize(model, "rw+lr", rank=2, wrap=type(encoder))
    images = np.ones((2, 16, 16, 3), "float32")
    np.testing.assert_array_equal(numpy(new(images)), numpy(model(images)))


def test_a_class_whose_config_cannot_remake_it():
    class Own(keras.Model):
        def __init__(self, function):
            inputs = keras.Input((4,))
            super().__init__(inputs, layers.Add()([inputs, function(inputs)]))

    model = Own(layers.Dense(4))
    with pytest.raises(ValueError, match=r"laurelize `keras.Model\(model.input, model.output\)`.*class Own"):
        laurelize(model)
    assert laurelize(keras.Model(model.input, model.output)).count_params() == 22

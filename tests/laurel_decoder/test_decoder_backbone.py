import inspect

import keras
import keras_hub
import numpy as np
import pytest
from decoders import SHAPE, VARIANTS, backbone, random_tokens, randomize
from variants import assert_close, to_numpy

import keras_laurel
from keras_laurel.applications import LaurelDecoderBackbone
from keras_laurel.applications.laurel_decoder import LaurelDecoderBlock, count_weights
from keras_laurel.applications.laurel_decoder.positions import LearnedPositions
from keras_laurel.joins import WORDS
from keras_laurel.monitoring import laurel_joins


@pytest.mark.parametrize(
    ("arguments", "published"),
    [
        ({"residual": "add"}, 157.20),
        ({"residual": "add", "num_layers": 28}, 179.23),
        ({"residual": "rw"}, 157.20),
        ({"residual": "lr"}, 158.40),
        ({"residual": "pa"}, 157.22),
        ({"residual": "rw+lr"}, 158.40),
    ],
)
def test_the_papers_small_lm_has_the_published_weights(arguments, published):
    assert round(count_weights("157m", **arguments) / 1e6, 2) == published


def test_the_papers_small_lm_with_all_parts_is_within_a_twentieth_of_a_percent():
    assert count_weights("157m", residual="rw+lr+pa") == pytest.approx(160.83e6, rel=5e-4)


@pytest.mark.parametrize(("size", "millions"), [("small", 10), ("1b", 1030), ("3b", 2917), ("4b", 4062)])
def test_sizes_have_the_weights_that_they_are_named_for(size, millions):
    assert round(count_weights(size, residual="add") / 1e6) == millions


def test_counting_makes_no_weights_later_either():
    count_weights("4b")
    with keras.StatelessScope():
        pass
    assert count_weights("tiny", residual="rw") - count_weights("tiny", residual="add") == 2 * 2 * 2


@pytest.mark.parametrize("joins", ["sublayer", "block"])
@pytest.mark.parametrize("word", WORDS)
def test_a_new_model_is_the_plain_one_of_the_same_weights(word, joins):
    models = [backbone("add", residual=residual, joins=joins) for residual in ("add", word)]
    plain, new = (randomize(model) if model is models[0] else model for model in models)
    values = {weight.path: weight for weight in plain.weights}
    for weight in new.weights:
        if weight.path in values:
            weight.assign(values.pop(weight.path))
    assert not values
    tokens = random_tokens()
    assert np.array_equal(to_numpy(new(tokens)), to_numpy(plain(tokens)))


def test_models_of_a_seed_start_from_the_same_weights_whatever_their_joins():
    from keras_laurel.applications import LaurelDecoderLM

    def weights(word):
        keras.utils.set_random_seed(3)
        return {w.path: to_numpy(w) for w in LaurelDecoderLM("tiny", residual=word).weights}

    plain = weights("add")
    for word in WORDS:
        other = weights(word)
        assert all(np.array_equal(other[path], value) for path, value in plain.items()), word


def reference(model, tokens):
    """The plain decoder, layer by layer, from its sublayers: norm, branch, sum."""
    x = model.token_embedding(tokens)
    for block in model.transformer_layers:
        x = x + block.mixer(block.mixer_norm(x))
        x = x + block.feedforward(block.feedforward_norm(x))
    return to_numpy(model.layer_norm(x))


def test_the_plain_decoder_is_what_its_sublayers_say():
    model, tokens = randomize(backbone("add")), random_tokens()
    assert np.array_equal(to_numpy(model(tokens)), reference(model, tokens))


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_later_token_changes_nothing_before_it(variant):
    model, tokens = randomize(backbone(variant)), random_tokens()
    changed = tokens.copy()
    changed[:, 3] = (changed[:, 3] + 1) % 11
    before, after = to_numpy(model(tokens)), to_numpy(model(changed))
    assert np.array_equal(before[:, :3], after[:, :3])
    assert np.all(np.any(before[:, 3:] != after[:, 3:], axis=-1))


@pytest.mark.parametrize("padding", [(0, 2), (2, 0)])
def test_padding_changes_nothing_on_either_side(padding):
    model, tokens = randomize(backbone()), random_tokens(4)
    padded = np.pad(tokens, ((0, 0), padding), constant_values=5)
    mask = np.pad(np.ones_like(tokens), ((0, 0), padding))
    own = slice(padding[0], padding[0] + 4)
    masked = to_numpy(model({"token_ids": padded, "padding_mask": mask}))[:, own]
    assert_close(masked, to_numpy(model(tokens)), 1e-4)  # rotary positions are relative: their angles are rounded
    if padding[0]:
        assert np.max(np.abs(to_numpy(model(padded))[:, own] - masked)) > 1e-2


def test_without_a_mask_all_tokens_count():
    model, tokens = randomize(backbone()), random_tokens()
    expected = to_numpy(model({"token_ids": tokens, "padding_mask": np.ones_like(tokens)}))
    assert_close(to_numpy(model(tokens)), expected)
    assert_close(to_numpy(model({"token_ids": tokens})), expected)
    assert_close(model.predict({"token_ids": tokens}, verbose=0), expected)


def test_every_block_has_as_many_states_and_the_embedding_stands_in_for_those_before():
    model, tokens = randomize(backbone("pa_first")), random_tokens()
    x = first = model.token_embedding(tokens)
    for block in model.transformer_layers:
        for norm, branch, join in (
            (block.mixer_norm, block.mixer, block.joins[0]),
            (block.feedforward_norm, block.feedforward, block.joins[1]),
        ):
            x = x + branch(norm(x)) + to_numpy(join.augmentation.gamma)[0] * first
    assert_close(to_numpy(model(tokens)), to_numpy(model.layer_norm(x)))
    counts = [join.num_inputs for join in laurel_joins(backbone("rw+lr+pa")).values()]
    assert counts == [4] * 4


def test_previous_activations_cross_blocks():
    model, tokens = randomize(backbone("block_pa")), random_tokens()
    states = [model.token_embedding(tokens)] * 3
    for block in model.transformer_layers:
        x = states[0]
        fx = block.mixer(block.mixer_norm(x))
        fx = fx + block.feedforward(block.feedforward_norm(x + fx))
        gamma = to_numpy(block.joins[0].augmentation.gamma)
        y = x + fx + sum(float(g) * state for g, state in zip(gamma, states))
        states = [y, *states[:2]]
    assert_close(to_numpy(model(tokens)), to_numpy(model.layer_norm(states[0])))


@pytest.mark.parametrize("variant", VARIANTS)
def test_config_names_every_argument_and_gives_the_model_again(variant):
    model = randomize(backbone(variant, remat=True, norm_epsilon=1e-3, name="decoder"))
    config = model.get_config()
    arguments = set(inspect.signature(LaurelDecoderBackbone.__init__).parameters) - {"self", "kwargs"}
    assert arguments <= set(config)
    copy = LaurelDecoderBackbone.from_config(config)
    assert copy.get_config() == config
    assert [w.path for w in copy.weights] == [w.path for w in model.weights]
    copy.set_weights(model.get_weights())
    tokens = random_tokens()
    assert np.array_equal(to_numpy(copy(tokens)), to_numpy(model(tokens)))


def test_a_block_is_saved_with_its_parts(tmp_path):
    inputs = keras.Input((None, 8))
    block = backbone("rw+lr+pa").transformer_layers[0]
    block = LaurelDecoderBlock.from_config(block.get_config())
    model = randomize(keras.Model(inputs, block([inputs, inputs, inputs])[0]))
    model.save(tmp_path / "block.keras")
    loaded = keras.models.load_model(tmp_path / "block.keras")
    assert [w.path for w in loaded.weights] == [w.path for w in model.weights]
    x = np.random.default_rng(0).normal(size=(1, 3, 8)).astype("float32")
    assert np.array_equal(to_numpy(loaded(x)), to_numpy(model(x)))


@pytest.mark.parametrize("variant", VARIANTS)
def test_bfloat16_is_close_to_float32(variant):
    model, tokens = randomize(backbone(variant, dtype="mixed_bfloat16")), random_tokens()
    exact = randomize(backbone(variant))
    outputs = model(tokens)
    assert keras.backend.standardize_dtype(outputs.dtype) == "bfloat16"
    assert {w.dtype for w in model.weights} == {"float32"}
    error = np.abs(to_numpy(outputs) - to_numpy(exact(tokens)))
    assert np.sqrt(np.mean(error**2)) < 0.05  # 2**-8 a rounding, a few of them, on outputs of order 1


@pytest.mark.parametrize(
    ("arguments", "initializer"),
    [
        ({}, keras_laurel.initializers.ColumnOrthogonal),
        ({"norm": "rms"}, keras_laurel.initializers.ColumnOrthogonal),
        ({"down_initializer": "glorot_uniform"}, keras.initializers.GlorotUniform),
    ],
)
def test_low_rank_maps_begin_column_orthogonal_unless_told_otherwise(arguments, initializer):
    model = LaurelDecoderBackbone(8, 1, 1, 8, 8, residual="rw+lr", rank=2, residual_arguments=arguments)
    for join in model.transformer_layers[0].joins:
        assert isinstance(join.down_initializer, initializer)
    assert model.residual_arguments == arguments


def test_the_default_join_is_rw_after_each_sublayer():
    model = LaurelDecoderBackbone(8, 1, 1, 8, 8)
    assert (model.residual, model.joins, len(laurel_joins(model))) == ("rw", "sublayer", 2)


def test_an_own_join_takes_part():
    class Half(keras.layers.Layer):
        def call(self, inputs):
            return inputs[0] + 0.5 * inputs[1]

    model = randomize(backbone("add", residual=lambda **kwargs: Half(name=kwargs["name"], dtype=kwargs["dtype"])))
    tokens = random_tokens()
    x = model.token_embedding(tokens)
    for block in model.transformer_layers:
        x = x + 0.5 * block.mixer(block.mixer_norm(x))
        x = x + 0.5 * block.feedforward(block.feedforward_norm(x))
    assert_close(to_numpy(model(tokens)), to_numpy(model.layer_norm(x)))


@keras.saving.register_keras_serializable(package="tests")
def half_join(name, dtype, **kwargs):
    return keras_laurel.LaurelRW("free", scale=1.0, name=name, dtype=dtype)


@pytest.mark.parametrize("residual", [keras_laurel.LaurelRW, half_join])
def test_a_registered_callable_is_saved(tmp_path, residual):
    model, tokens = randomize(backbone("add", residual=residual, rank=None)), random_tokens()
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.residual is residual
    assert np.array_equal(to_numpy(loaded(tokens)), to_numpy(model(tokens)))


def test_a_class_that_is_not_registered_is_named_when_loaded():
    config = backbone("add", residual=keras.layers.Add, rank=None).get_config()
    with pytest.raises(ValueError, match=r"class of the joins to be registered .* Received: residual='Add'"):
        LaurelDecoderBackbone.from_config(config)


def test_the_first_state_stays_where_other_joins_stand_between():
    def mixed(name, dtype, **kwargs):
        first = {"num_activations": 1, "previous": "first"} if name == "mixer_join" else {}
        return keras_laurel.Laurel(name=name, dtype=dtype, **first)

    model, tokens = randomize(backbone("add", residual=mixed)), random_tokens()
    x = first = model.token_embedding(tokens)
    for block in model.transformer_layers:
        gamma = to_numpy(block.joins[0].augmentation.gamma)[0]
        x = x + block.mixer(block.mixer_norm(x)) + gamma * first
        x = x + block.feedforward(block.feedforward_norm(x))
    assert_close(to_numpy(model(tokens)), to_numpy(model.layer_norm(x)))


def test_joins_of_both_kinds_of_history_are_refused():
    def mixed(name, dtype, **kwargs):
        previous = "first" if name == "mixer_join" else "last"
        return keras_laurel.LaurelPA(1 + (previous == "last"), previous, name=name, dtype=dtype)

    with pytest.raises(ValueError, match=r"last states, or all the first. Received: both"):
        backbone("add", residual=mixed)


def test_a_symbolic_call_needs_no_mask(tmp_path):
    inputs = keras.Input((None,), dtype="int32")
    decoder = randomize(backbone("rw"))
    model = keras.Model(inputs, decoder(inputs))
    tokens = random_tokens()
    assert_close(to_numpy(model(tokens)), to_numpy(decoder(tokens)))
    model.save(tmp_path / "model.keras")
    assert_close(to_numpy(keras.models.load_model(tmp_path / "model.keras")(tokens)), to_numpy(decoder(tokens)))


@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
def test_learned_positions_are_those_of_keras_hub(dtype):
    x = keras.ops.zeros((3, 4, 8), "bfloat16" if dtype == "mixed_bfloat16" else dtype)
    ours, theirs = (kind(6, dtype=dtype) for kind in (LearnedPositions, keras_hub.layers.PositionEmbedding))
    for layer in (ours, theirs):
        layer.build((None, 4, 8))
        layer.position_embeddings.assign(np.random.default_rng(0).normal(size=(6, 8)))
    for start in (0, 2):
        np.testing.assert_array_equal(to_numpy(ours(x, start_index=start)), to_numpy(theirs(x, start_index=start)))


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="of JAX")
def test_the_gradient_of_learned_positions_in_half_precision_is_no_sum_over_the_batch():
    import jax
    import jax.numpy as jnp

    dy = jnp.asarray(np.random.default_rng(0).normal(size=(3, 4, 8)), "bfloat16")
    sums = {}
    for kind in (LearnedPositions, keras_hub.layers.PositionEmbedding):
        layer = kind(4, dtype="mixed_bfloat16")
        layer.build((None, 4, 8))

        def spread(positions, layer=layer):
            with keras.StatelessScope([(layer.position_embeddings, positions)]):
                return layer(jnp.zeros(dy.shape, dy.dtype))

        _, pull = jax.vjp(spread, layer.position_embeddings.value)
        np.testing.assert_allclose(pull(dy)[0], np.asarray(dy, "float32").sum(0), atol=3 * 2**-7)
        equations = jax.make_jaxpr(lambda dy, pull=pull: pull(dy))(dy).eqns
        sums[kind] = [e for e in equations if e.primitive.name == "reduce_sum" and e.invars[0].aval.shape == dy.shape]
    assert [len(found) for found in sums.values()] == [0, 1]


def test_more_tokens_than_learned_positions_are_refused():
    with pytest.raises(ValueError, match=r"at most 6 tokens, .* Received: 7 tokens"):
        backbone("paper_rw+lr+pa")(random_tokens(7))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_layers": 0}, "`num_layers` to be a positive integer. Received: num_layers=0"),
        ({"residul": "rw"}, "arguments of `LaurelDecoderBackbone`. Received: residul"),
        ({"joins": "both"}, r"`joins` to be one of \('sublayer', 'block'\). Received: joins='both'"),
        ({"positions": "none"}, "Received: positions='none'"),
        ({"norm": "batch"}, "Received: norm='batch'"),
        ({"feedforward": "relu"}, "Received: feedforward='relu'"),
        ({"residual": "near"}, "Received: 'near'"),
        ({"mixers": ("attention", "magic")}, "Received: mixers='magic'"),
        ({"mixers": ()}, r"Expected a mixer among `mixers`, a word or a sequence of words. Received: mixers=\[\]"),
        ({"mixers": "mlp"}, r"Expected a mixer among `mixers`, .* Received: mixers=\['mlp'\]"),
        (
            {"mixers": ("swiglu", "mamba")},
            r"each feed-forward layer after a mixer. Received: mixers=\['swiglu', 'mamba'\]",
        ),
        ({"mixers": ("mamba", "moe", "mlp")}, "each feed-forward layer after a mixer"),
        ({"mixers": ("mamba", "none", "mlp")}, "each feed-forward layer after a mixer"),
        ({"feedforward": "moe"}, "a multiple of 8, the experts. Received: intermediate_dim=6"),
        ({"num_query_heads": 3, "num_key_value_heads": 2}, "Received: num_heads=3, num_key_value_heads=2"),
    ],
)
def test_error_names_what_was_expected_and_received(arguments, message):
    with pytest.raises(ValueError, match=message):
        LaurelDecoderBackbone(**{**SHAPE, **arguments})


def test_a_block_takes_one_join_or_two():
    block = backbone("add").transformer_layers[0]
    with pytest.raises(ValueError, match=r"one join or two. Received: 3 joins"):
        LaurelDecoderBlock(block.mixer, block.feedforward, [keras_laurel.residual("add") for _ in range(3)])


def test_a_block_without_a_feedforward_layer_takes_one_join():
    mixer = backbone("add").transformer_layers[0].mixer
    with pytest.raises(ValueError, match=r"Expected one join. Received: 2 joins"):
        LaurelDecoderBlock(mixer, None, [keras_laurel.residual("add") for _ in range(2)])


def test_feedforward_layers_belong_to_the_mixers_before_them():
    model = backbone("striped", num_layers=4)
    blocks = [
        (block.mixer.name, block.feedforward and type(block.feedforward).__name__, [join.name for join in block.joins])
        for block in model.transformer_layers
    ]
    assert blocks == [
        ("mamba", None, ["mixer_join"]),
        ("mamba", None, ["mixer_join"]),
        ("attention", "MixtureOfExperts", ["mixer_join", "feedforward_join"]),
        ("mamba", None, ["mixer_join"]),
    ]
    assert [block.joins[0].name for block in backbone("striped", joins="block").transformer_layers] == ["join"] * 3


def test_a_decoder_of_mixers_alone_is_what_they_say():
    model, tokens = randomize(backbone("add", mixers="mamba", feedforward="none")), random_tokens()
    x = model.token_embedding(tokens)
    for block in model.transformer_layers:
        x = x + block.mixer(block.mixer_norm(x))
    assert np.array_equal(to_numpy(model(tokens)), to_numpy(model.layer_norm(x)))

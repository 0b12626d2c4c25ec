import importlib.util
import json
import pickle

import keras
import keras_hub
import numpy as np
import pytest
from decoders import VARIANTS, causal_lm, random_tokens, randomize
from processes import EVERY_BACKEND, run_python
from variants import assert_close, to_numpy

from keras_laurel.applications import (
    LaurelByteTokenizer,
    LaurelCausalLM,
    LaurelCausalLMPreprocessor,
    LaurelDecoderLM,
)
from keras_laurel.initializers import ColumnOrthogonal
from keras_laurel.monitoring import laurel_weights

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*torch.jit:DeprecationWarning",
    "ignore:.*does not have a `quantize` method implemented",  # Keras tells this of input layers,
    "ignore:Invalid quantization mode.*gptq",  # and that of embeddings
    "ignore:`compile\\(\\)` was not called as part of model loading",  # keras_hub's tasks compile themselves
)

TEXTS = ["abcabc", "bcabca", "cab", "abcab"]


def byte_lm(variant="rw+lr+pa", **kwargs):
    preprocessor = LaurelCausalLMPreprocessor(LaurelByteTokenizer(), sequence_length=6)
    return randomize(causal_lm(variant, preprocessor, vocabulary_size=256, **kwargs))


def prompts(tokens, lengths):
    mask = np.arange(tokens.shape[1]) < np.array(lengths)[:, None]
    return {"token_ids": np.where(mask, tokens, 0), "padding_mask": mask}


def greedy(model, inputs):
    """Greedy decoding without a cache: the whole sequence again for each token."""
    tokens, mask = inputs["token_ids"].copy(), inputs["padding_mask"]
    for time in range(mask.sum(axis=1).min(), tokens.shape[1]):
        best = np.argmax(to_numpy(model(tokens))[:, time - 1], axis=-1)
        tokens[:, time] = np.where(mask[:, time], tokens[:, time], best)
    return tokens


@pytest.mark.parametrize(
    ("variant", "arguments"),
    [
        *((variant, {}) for variant in VARIANTS),
        ("rw", {"mixers": "sliding_attention", "window": 2}),
        ("rw+lr+pa", {"mixers": ("mamba", "hyena")}),
        ("rw", {"mixers": ("linear_attention", "multi_head_hyena")}),
        ("rw", {"mixers": ("hyena-experts", "attention", "swiglu")}),
    ],
)
def test_generated_greedily_is_what_the_whole_sequence_says(variant, arguments):
    model, inputs = randomize(causal_lm(variant, **arguments)), prompts(random_tokens(), [2, 3])
    expected = greedy(model, inputs)
    model.compile(sampler="greedy")
    outputs = model.generate(inputs, stop_token_ids=None)
    assert np.array_equal(outputs["token_ids"], expected)
    assert len(np.unique(expected)) > 3  # so that equality says something


def test_a_sequence_ends_with_its_first_stop_token():
    model, inputs = randomize(causal_lm("rw")), prompts(random_tokens(batch_size=3), [2, 2, 2])
    tokens = greedy(model, inputs)
    stop = int(tokens[0, 3])
    model.compile(sampler="greedy")
    outputs = model.generate(inputs, stop_token_ids=[stop])
    for row, mask in zip(outputs["token_ids"], outputs["padding_mask"]):
        stops = [time for time in range(2, 6) if row[time] == stop]
        length = stops[0] + 1 if stops else 6
        assert list(mask) == [time < length for time in range(6)]
    assert list(outputs["padding_mask"][0]) == [True] * 4 + [False] * 2


SAMPLERS = {
    "top_k": "top_k",
    "top_p": "top_p",
    "random": "random",
    "beam": keras_hub.samplers.BeamSampler(num_beams=2),
    "contrastive": keras_hub.samplers.ContrastiveSampler(k=2, alpha=0.2),
}


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_continues_the_prompt(sampler):
    model = byte_lm()
    model.compile(sampler=SAMPLERS[sampler])
    inputs = prompts(random_tokens() + 97, [2, 3])
    model.preprocessor = None
    tokens = model.generate(inputs, stop_token_ids=None)["token_ids"]
    assert np.array_equal(tokens[inputs["padding_mask"]], inputs["token_ids"][inputs["padding_mask"]])
    assert tokens.shape == (2, 6)
    assert np.all((tokens >= 0) & (tokens < 256))


def test_beams_of_one_are_greedy():
    model, inputs = randomize(causal_lm("rw+lr+pa")), prompts(random_tokens(), [2, 3])
    model.compile(sampler=keras_hub.samplers.BeamSampler(num_beams=1))
    assert np.array_equal(model.generate(inputs, stop_token_ids=None)["token_ids"], greedy(model, inputs))


def test_strings_in_strings_out():
    model = byte_lm("rw+lr")
    model.compile(sampler="greedy")
    text = model.generate("ab", max_length=6)
    assert text.startswith("ab")
    assert model.generate(["ab", "c"], max_length=6, stop_token_ids=None)[0].startswith("ab")
    with pytest.raises(ValueError, match=r"a prompt of at most 6 tokens"):
        model.generate("abcdefgh", max_length=6)


def test_score_gives_the_logits_or_the_loss_of_each_token():
    model, tokens = randomize(causal_lm("rw+lr+pa")), random_tokens()
    logits = to_numpy(model(tokens))
    assert_close(to_numpy(model.score(tokens)), logits)
    targets = np.roll(tokens, -1, axis=1)
    log_sums = np.log(np.sum(np.exp(logits.astype("float64")), axis=-1))
    expected = log_sums - np.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    assert_close(to_numpy(model.score(tokens, scoring_mode="loss", target_ids=targets)), expected, 1e-5)


def test_score_hands_the_stream_to_an_intercepting_function():
    model, tokens, seen = randomize(causal_lm("rw+lr+pa")), random_tokens(), []

    def intercept(x, index):
        seen.append((index, tuple(x.shape)))
        return keras.ops.zeros_like(x) if index == 1 else x

    logits = model.score(tokens, layer_intercept_fn=intercept)
    assert seen == [(index, (2, 6, 8)) for index in (-1, 0, 1)]
    assert np.all(to_numpy(logits) == 0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"scoring_mode": "best"}, "'logits' or 'loss'. Received: 'best'"),
        ({"scoring_mode": "loss"}, "`target_ids` with scoring_mode='loss'. Received: target_ids=None"),
    ],
)
def test_score_names_what_was_expected(arguments, message):
    with pytest.raises(ValueError, match=message):
        causal_lm("add").score(random_tokens(), **arguments)


def loaders(tokens, targets):
    """The same four examples as everything that `fit` takes."""
    import grain

    forms = {
        "arrays": lambda: (tokens, targets),
        "dictionary": lambda: ({"token_ids": tokens, "padding_mask": np.ones_like(tokens)}, targets),
        "grain": lambda: (grain.MapDataset.source(list(zip(tokens, targets))).batch(4), None),
    }
    if importlib.util.find_spec("tensorflow"):
        import tensorflow as tf

        forms["tf.data"] = lambda: (tf.data.Dataset.from_tensor_slices((tokens, targets)).batch(4), None)
    if importlib.util.find_spec("torch"):
        import torch

        pairs = torch.utils.data.TensorDataset(torch.from_numpy(tokens), torch.from_numpy(targets).long())
        forms["torch"] = lambda: (torch.utils.data.DataLoader(pairs, batch_size=4), None)
    return forms


@pytest.mark.parametrize("form", ["arrays", "dictionary", "grain", "tf.data", "torch"])
def test_it_fits_token_ids_of_every_form(form):
    tokens = random_tokens(batch_size=4)
    x, y = loaders(tokens, np.roll(tokens, -1, axis=1))[form]()
    model = randomize(causal_lm("rw+lr"))
    model.compile(keras.optimizers.SGD(0.1), keras.losses.SparseCategoricalCrossentropy(True), weighted_metrics=[])
    history = model.fit(x, y, batch_size=4 if y is not None else None, shuffle=False, epochs=2, verbose=0)
    expected = randomize(causal_lm("rw+lr"))
    loss = np.mean(to_numpy(expected.score(tokens, None, "loss", target_ids=np.roll(tokens, -1, axis=1))))
    assert history.history["loss"][0] == pytest.approx(loss, rel=1e-4)
    assert history.history["loss"][1] < history.history["loss"][0]


@pytest.mark.parametrize("form", [pytest.param("list", marks=pytest.mark.slow), "tf.data", "torch"])
def test_it_fits_strings(form):
    import tensorflow as tf
    import torch

    model = byte_lm("rw")
    model.compile(keras.optimizers.Adam(0.01), keras.losses.SparseCategoricalCrossentropy(True))
    model_loss_at_start = model.evaluate(TEXTS, batch_size=2, verbose=0)[0]
    data = {
        "list": TEXTS,
        "tf.data": tf.data.Dataset.from_tensor_slices(TEXTS).batch(2),
        "torch": torch.utils.data.DataLoader(TEXTS, batch_size=2),
    }[form]
    kwargs = {"batch_size": 2} if form == "list" else {"validation_data": data}
    history = model.fit(data, shuffle=False, epochs=3, verbose=0, **kwargs)
    assert history.history["loss"][2] < history.history["loss"][0]
    assert history.history["loss"][0] == pytest.approx(model_loss_at_start, rel=0.1)
    if form == "torch":
        assert model.evaluate(data, verbose=0)[0] == pytest.approx(history.history["val_loss"][2], rel=1e-5)
        assert model.predict(data, verbose=0).shape == (4, 6, 256)


def test_a_loader_is_validated_by_a_loader():
    import torch

    model = byte_lm("rw")
    loader = torch.utils.data.DataLoader(TEXTS, batch_size=2)
    with pytest.raises(ValueError, match=r"PyTorch loaders, or neither, .* Received: DataLoader and tuple"):
        model.fit(loader, validation_data=(TEXTS,))


def test_a_loader_may_have_worker_processes():
    import torch

    model = byte_lm("rw")
    loader = model._preprocessed(torch.utils.data.DataLoader(TEXTS, batch_size=2))
    copy = pickle.loads(pickle.dumps(loader.collate_fn))
    x, y, _ = copy(TEXTS[:2])
    expected = model.preprocessor(TEXTS[:2])
    assert np.array_equal(x["token_ids"].numpy(), to_numpy(expected[0]["token_ids"]))
    assert np.array_equal(y.numpy(), to_numpy(expected[1]))


@pytest.mark.parametrize("variant", ["rw+lr+pa", "paper_rw+lr+pa", "block_pa"])
def test_a_saved_model_loads(tmp_path, variant):
    model = byte_lm(variant)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert isinstance(loaded, LaurelCausalLM)
    tokens = random_tokens()
    assert np.array_equal(to_numpy(loaded(tokens)), to_numpy(model(tokens)))
    for own in (model, loaded):
        own.compile(sampler="greedy")
    assert loaded.generate("ab", max_length=6) == model.generate("ab", max_length=6)


LOAD_PRESET = """
import sys
import keras
import numpy as np
import keras_hub
import keras_laurel.applications.laurel_decoder
lm = keras_hub.models.CausalLM.from_preset(sys.argv[1])
data = np.load(sys.argv[2])
logits = keras.ops.convert_to_numpy(lm(data["tokens"]))
lm.compile(sampler="greedy")
print(keras.backend.backend(), np.max(np.abs(logits - data["logits"])), repr(lm.generate("ab", max_length=6)))
"""


@pytest.fixture(scope="module")
def preset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("preset")
    model = byte_lm()
    model.save_to_preset(str(folder / "preset"))
    tokens = random_tokens()
    np.savez(folder / "data.npz", tokens=tokens, logits=to_numpy(model(tokens)))
    model.compile(sampler="greedy")
    return folder, model.generate("ab", max_length=6)


@pytest.mark.parametrize("backend", EVERY_BACKEND)
def test_a_preset_loads_on_every_backend(preset, backend):
    folder, text = preset
    printed = run_python(LOAD_PRESET, folder / "preset", folder / "data.npz", backend=backend)
    name, error, generated = printed.splitlines()[-1].split(maxsplit=2)
    assert (name, generated) == (backend, repr(text))
    assert float(error) < 1e-4


def test_the_builder_loads_a_preset(preset):
    folder, text = preset
    model = LaurelDecoderLM(str(folder / "preset"))
    model.compile(sampler="greedy")
    assert model.generate("ab", max_length=6) == text
    config = json.loads((folder / "preset" / "config.json").read_text())
    assert config["config"]["residual"] == "rw+lr+pa"


def test_the_builder_takes_of_a_preset_what_it_is(preset):
    folder, _ = preset
    with pytest.raises(ValueError, match=r"no argument but `dtype` with a preset. Received: residual"):
        LaurelDecoderLM(folder / "preset", residual="add")
    assert LaurelDecoderLM(folder / "preset", dtype="bfloat16").dtype_policy.name == "bfloat16"


@pytest.mark.parametrize("tie_embeddings", [True, False])
def test_logits_are_made_in_the_compute_dtype(tie_embeddings):
    model = causal_lm(dtype="mixed_bfloat16", tie_embeddings=tie_embeddings)
    logits = model({"token_ids": random_tokens()})
    assert keras.backend.standardize_dtype(logits.dtype) == model.output.dtype == "bfloat16"


def test_a_preset_of_a_mixed_policy_loads(tmp_path):
    model, tokens = byte_lm("rw+lr", dtype="mixed_bfloat16"), random_tokens()
    model.save_to_preset(str(tmp_path))
    loaded = keras_hub.models.CausalLM.from_preset(str(tmp_path))
    assert loaded.dtype_policy.name == "mixed_bfloat16"
    assert np.array_equal(to_numpy(loaded(tokens)), to_numpy(model(tokens)))


def test_the_low_rank_maps_start_as_the_papers_for_language_models():
    model = LaurelDecoderLM("157m", num_layers=1, hidden_dim=12, vocabulary_size=8, residual="rw+lr", rank=2)
    join = model.backbone.transformer_layers[0].joins[0]
    assert isinstance(join.down_initializer, ColumnOrthogonal)
    assert join.norm == "rms"
    assert LaurelDecoderLM("tiny", residual=keras.layers.Add).count_params() == 31_392


def test_the_builder_takes_a_size_and_what_differs():
    preprocessor = LaurelCausalLMPreprocessor(LaurelByteTokenizer(), sequence_length=8)
    model = LaurelDecoderLM("small", residual="rw", num_layers=1, hidden_dim=16, preprocessor=preprocessor)
    assert (model.backbone.vocabulary_size, model.backbone.num_layers, model.backbone.hidden_dim) == (256, 1, 16)
    assert model.backbone.intermediate_dim == 768
    assert model.preprocessor is preprocessor


@pytest.mark.parametrize(
    ("size", "arguments", "message"),
    [
        ("huge", {}, r"one of 'tiny', 'small', '157m', '1b', '3b', '4b', or a preset's .* Received: size='huge'"),
        ("tiny", {"vocabulary_size": 100}, "at least that of the tokenizer, 256. Received: vocabulary_size=100"),
        ("157m", {"num_layers": 1, "residual": "rw"}, "`sequence_length` of at most 512, .* sequence_length=1024"),
    ],
)
def test_error_of_the_builder_names_what_was_expected(size, arguments, message):
    with pytest.raises(ValueError, match=message):
        LaurelDecoderLM(size, preprocessor=LaurelCausalLMPreprocessor(LaurelByteTokenizer()), **arguments)


def test_lora_changes_nothing_at_first_then_trains_alone(tmp_path):
    model, tokens = byte_lm("rw+lr+pa"), random_tokens(batch_size=4)
    before = to_numpy(model(tokens))
    model.backbone.enable_lora(2)
    assert np.array_equal(to_numpy(model(tokens)), before)
    assert {w.name for w in model.trainable_weights} == {"lora_kernel_a", "lora_kernel_b"}
    assert len(model.trainable_weights) == 2 * 2 * 2  # two factors for query and value of two blocks
    model.preprocessor = None
    model.compile(keras.optimizers.SGD(1.0), keras.losses.SparseCategoricalCrossentropy(True), weighted_metrics=[])
    frozen = [to_numpy(w) for w in laurel_weights(model.backbone)]
    for _ in range(2):
        model.train_on_batch(tokens, np.roll(tokens, -1, axis=1))
    assert all(np.array_equal(to_numpy(w), v) for w, v in zip(laurel_weights(model.backbone), frozen))
    after = to_numpy(model(tokens))
    assert not np.array_equal(after, before)
    model.backbone.save_lora_weights(str(tmp_path / "own.lora.h5"))
    other = byte_lm("rw+lr+pa")
    other.backbone.load_lora_weights(str(tmp_path / "own.lora.h5"))
    assert_close(to_numpy(other(tokens)), after)


# Of the largest logit. Int8 rounds by 1/254 of a row's largest weight and int4 by 1/14: a few of them add up.
QUANTIZATION_ERRORS = {"int8": 0.15, "int4": 0.6}


@pytest.mark.slow_on("tensorflow")
@pytest.mark.parametrize("mode", ["int8", pytest.param("int4", marks=pytest.mark.slow_on("jax"))])
def test_a_quantized_model_reloads(tmp_path, mode):
    model, tokens = byte_lm("rw+lr+pa", tie_embeddings=False), random_tokens()
    exact = to_numpy(model(tokens))
    model.quantize(mode)
    quantized = {layer.path for layer in model._flatten_layers() if layer.quantization_mode == mode}
    assert len(quantized) == 1 + 2 * (4 + 3) + 4 * (3 + 1)  # embedding; attention, SwiGLU; three downs and an up a join
    outputs = to_numpy(model(tokens))
    assert 0 < np.max(np.abs(outputs - exact)) < QUANTIZATION_ERRORS[mode] * np.max(np.abs(exact))
    model.save_to_preset(str(tmp_path))
    loaded = keras_hub.models.CausalLM.from_preset(str(tmp_path))
    assert {layer.path for layer in loaded._flatten_layers() if layer.quantization_mode == mode} == quantized
    hidden = [to_numpy(lm.backbone(tokens)) for lm in (model, loaded)]
    assert np.array_equal(*hidden)
    # A loaded output layer rounds its inputs too, one that was quantized in place does not (Keras 3.15).
    assert np.max(np.abs(to_numpy(loaded(tokens)) - outputs)) < 0.02 * np.max(np.abs(outputs))
    loaded.compile(sampler="greedy")
    assert loaded.generate("ab", max_length=6).startswith("ab")


@pytest.mark.slow
def test_gptq_quantizes_the_blocks_with_their_history():
    model, tokens = byte_lm("rw+lr+pa"), random_tokens()
    exact = to_numpy(model(tokens))
    config = keras.quantizers.GPTQConfig(
        dataset=["abcabcabcabc"],
        tokenizer=model.preprocessor.tokenizer,
        weight_bits=8,
        num_samples=2,
        sequence_length=6,
    )
    model.quantize("gptq", config=config)
    assert sum(layer.quantization_mode == "gptq" for layer in model._flatten_layers()) == 2 * (4 + 3) + 4 * (3 + 1)
    assert 0 < np.max(np.abs(to_numpy(model(tokens)) - exact)) < 0.1 * np.max(np.abs(exact))


def test_the_quantization_structure_runs_the_blocks_in_order():
    model, tokens = randomize(causal_lm("rw+lr+pa")), random_tokens(batch_size=1)
    assert model.get_quantization_layer_structure("int8") is None
    structure = model.get_quantization_layer_structure("gptq")
    x = keras.ops.convert_to_tensor(tokens)
    for layer in structure["pre_block_layers"]:
        x = layer(x)
    for block in structure["sequential_blocks"]:
        x = block(x)[0]
    assert_close(to_numpy(model.backbone.layer_norm(x[0])), to_numpy(model.backbone(tokens)))

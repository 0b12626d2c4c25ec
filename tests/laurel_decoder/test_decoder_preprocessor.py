import json
import pickle

import grain
import keras
import keras_hub
import numpy as np
import pytest
import tensorflow as tf

from keras_laurel.applications.laurel_decoder.backbone import LaurelDecoderBackbone
from keras_laurel.applications.laurel_decoder.preprocessor import LaurelCausalLMPreprocessor
from keras_laurel.applications.laurel_decoder.tokenizers import LaurelBytePairTokenizer, LaurelByteTokenizer

STRINGS = ["ab", "", "abcdef"]
# The start token is the end token, 3; a string that is too long ends with it all the same.
TOKENS = [[3, 97, 98, 3], [3, 3, 0, 0], [3, 97, 98, 99]]
LABELS = [[97, 98, 3, 0], [3, 0, 0, 0], [97, 98, 99, 3]]
MASKS = [[1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 1, 1]]
WEIGHTS = [[1, 1, 1, 0], [1, 0, 0, 0], [1, 1, 1, 1]]


@pytest.fixture
def preprocessor():
    return LaurelCausalLMPreprocessor(LaurelByteTokenizer(), sequence_length=4)


def values(outputs):
    x, y, sample_weight = outputs
    assert {keras.backend.standardize_dtype(mask.dtype) for mask in (x["padding_mask"], sample_weight)} == {"int32"}
    return [np.array(value).tolist() for value in (x["token_ids"], y, x["padding_mask"], sample_weight)]


def test_strings_become_tokens_labels_masks_and_weights(preprocessor):
    assert values(preprocessor(STRINGS)) == [TOKENS, LABELS, MASKS, WEIGHTS]
    assert values(preprocessor("ab")) == [TOKENS[0], LABELS[0], MASKS[0], WEIGHTS[0]]


def test_tf_data_gives_the_same(preprocessor):
    data = tf.data.Dataset.from_tensor_slices(STRINGS)
    assert values(next(data.batch(3).map(preprocessor).as_numpy_iterator())) == [TOKENS, LABELS, MASKS, WEIGHTS]
    single = [values(example) for example in data.map(preprocessor).as_numpy_iterator()]
    assert single == [list(example) for example in zip(TOKENS, LABELS, MASKS, WEIGHTS)]


def test_grain_gives_the_same_as_numpy_arrays(preprocessor):
    outputs = grain.MapDataset.source(STRINGS).batch(3).map(preprocessor)[0]
    assert values(outputs) == [TOKENS, LABELS, MASKS, WEIGHTS]
    assert {type(value) for value in keras.tree.flatten(outputs)} == {np.ndarray}


def test_a_call_may_have_its_own_length(preprocessor):
    assert values(preprocessor("ab", sequence_length=2))[0] == [3, 97]


def test_the_start_and_the_end_can_be_left_out():
    preprocessor = LaurelCausalLMPreprocessor(
        LaurelByteTokenizer(), sequence_length=2, add_start_token=False, add_end_token=False
    )
    assert values(preprocessor("abc"))[:2] == [[97, 98], [98, 99]]


@pytest.mark.parametrize("prompts", [["abc", ""], np.array(["abc", ""])])
def test_prompts_have_a_start_and_no_end(preprocessor, prompts):
    outputs = preprocessor.generate_preprocess(prompts)
    assert np.array(outputs["token_ids"]).tolist() == [[3, 97, 98, 99], [3, 0, 0, 0]]
    assert np.array(outputs["padding_mask"]).tolist() == [[True] * 4, [True] + [False] * 3]


def test_generated_tokens_become_text_without_padding_and_special_tokens(preprocessor):
    tokens = {"token_ids": np.array([[3, 104, 105, 3], [3, 104, 0xF0, 0x9F]]), "padding_mask": np.ones((2, 4), bool)}
    assert preprocessor.generate_postprocess(tokens) == ["hi", "h\N{REPLACEMENT CHARACTER}"]
    tokens["padding_mask"][:, 2:] = False
    assert preprocessor.generate_postprocess(tokens) == ["h", "h"]


@pytest.mark.parametrize(
    ("prompt", "length", "message"),
    [
        ("abcd", None, "at most 4 tokens, its start token included. Received: 5 tokens"),
        (["ab", "abcdef"], None, "at most 4 tokens, its start token included. Received: 7 tokens"),
        ("abcd", 3, "at most 3 tokens, its start token included. Received: 5 tokens"),
    ],
)
def test_a_prompt_that_does_not_fit_is_refused(preprocessor, prompt, length, message):
    with pytest.raises(ValueError, match=message):
        preprocessor.generate_preprocess(prompt, sequence_length=length)


def test_a_prompt_fits_a_longer_length_than_the_layers(preprocessor):
    tokens = preprocessor.generate_preprocess("abcd", sequence_length=6)["token_ids"]
    assert np.array(tokens).tolist() == [3, 97, 98, 99, 100, 0]


def test_tf_data_makes_prompts_and_refuses_the_same(preprocessor):
    data = tf.data.Dataset.from_tensor_slices(["abc", "abcd"]).map(preprocessor.generate_preprocess)
    prompts = data.as_numpy_iterator()
    assert next(prompts)["token_ids"].tolist() == [3, 97, 98, 99]
    with pytest.raises(tf.errors.InvalidArgumentError, match="Expected a prompt of at most 4 tokens"):
        next(prompts)


@pytest.mark.parametrize(
    "tokenizer",
    [
        LaurelByteTokenizer(lowercase=True),
        LaurelBytePairTokenizer({"<|endoftext|>": 0, "A": 1, "b": 2, "Ab": 3}, ["A b"]),
    ],
    ids=["bytes", "byte_pair"],
)
def test_a_preset_brings_the_preprocessor_and_its_tokenizer_back(tokenizer, tmp_path):
    (tmp_path / "config.json").write_text(
        json.dumps({"registered_name": keras.saving.get_registered_name(LaurelDecoderBackbone)})
    )
    preprocessor = LaurelCausalLMPreprocessor(tokenizer, sequence_length=4, add_end_token=False)
    preprocessor.save_to_preset(str(tmp_path))
    for cls in (LaurelCausalLMPreprocessor, keras_hub.models.CausalLMPreprocessor):
        loaded = cls.from_preset(str(tmp_path))
        assert type(loaded) is LaurelCausalLMPreprocessor
        assert type(loaded.tokenizer) is type(tokenizer)
        assert loaded.sequence_length == 4
        assert values(loaded("Ab")) == values(preprocessor("Ab"))


def test_a_preset_of_a_tokenizer_alone_is_enough(tmp_path):
    (tmp_path / "config.json").write_text(
        json.dumps({"registered_name": keras.saving.get_registered_name(LaurelDecoderBackbone)})
    )
    LaurelByteTokenizer(lowercase=True).save_to_preset(str(tmp_path))
    loaded = LaurelCausalLMPreprocessor.from_preset(str(tmp_path), sequence_length=3)
    assert values(loaded("A"))[0] == [3, 97, 3]


def test_config_is_complete(preprocessor):
    again = LaurelCausalLMPreprocessor.from_config(preprocessor.get_config())
    assert again.get_config() == preprocessor.get_config()
    assert values(again(STRINGS)) == values(preprocessor(STRINGS))


def test_grain_workers_get_a_copy(preprocessor):
    assert values(pickle.loads(pickle.dumps(preprocessor))(STRINGS)) == values(preprocessor(STRINGS))

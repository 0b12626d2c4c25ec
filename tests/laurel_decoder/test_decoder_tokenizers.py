import functools
import io
import json
import pickle

import grain
import keras
import keras_hub
import numpy as np
import pytest
import sentencepiece
import tensorflow as tf
from processes import run_python

from keras_laurel.applications.laurel_decoder.backbone import LaurelDecoderBackbone
from keras_laurel.applications.laurel_decoder.tokenizers import (
    LaurelBytePairTokenizer,
    LaurelByteTokenizer,
    LaurelSentencePieceTokenizer,
)

pytestmark = pytest.mark.slow_on("jax", "tensorflow")  # no backend has a part in the tokens

VOCABULARY = {"<|endoftext|>": 0, "t": 1, "o": 2, "b": 3, "e": 4, "Ġ": 5, "to": 6, "ĠĠ": 7, "Ġt": 8, "ð": 9, "Ł": 10}
MERGES = ["t o", "Ġ Ġ", "Ġ t"]


@functools.cache
def proto():
    file = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["to be to be"]), model_writer=file, vocab_size=8, minloglevel=2
    )
    return file.getvalue()


MAKERS = {
    "bytes": LaurelByteTokenizer,
    "byte_pair": lambda: LaurelBytePairTokenizer(VOCABULARY, MERGES),
    "sentence_piece": lambda: LaurelSentencePieceTokenizer(proto()),
}


@pytest.fixture(params=MAKERS)
def tokenizer(request):
    return MAKERS[request.param]()


def lists(tokens):
    return [np.array(row).tolist() for row in tokens]


def in_tf_data(tokenizer, data):
    return [np.array(tokens).tolist() for tokens in data.map(tokenizer).as_numpy_iterator()]


def test_text_survives(tokenizer):
    assert tokenizer.detokenize(tokenizer("to be")) == "to be"
    assert tokenizer.detokenize(tokenizer(["to", "", "be to"])) == ["to", "", "be to"]


def test_one_end_token_is_the_start_token_too(tokenizer):
    assert tokenizer.start_token_id == tokenizer.end_token_id
    assert tokenizer.special_token_ids == [tokenizer.end_token_id]
    assert tokenizer.pad_token_id == 0


@pytest.mark.parametrize(
    ("name", "token", "token_id"),
    [("bytes", "\x03", 3), ("byte_pair", "<|endoftext|>", 0), ("sentence_piece", "</s>", 2)],
)
def test_the_end_token_is(name, token, token_id):
    tokenizer = MAKERS[name]()
    assert (tokenizer.end_token, tokenizer.end_token_id) == (token, token_id)


@pytest.mark.parametrize("strings", [["to be", "", "be"], [""]])  # keras-hub's bytes fail on the second
def test_tf_data_gives_the_same_tokens(tokenizer, strings):
    data = tf.data.Dataset.from_tensor_slices(strings)
    expected = lists(tokenizer(strings))
    assert in_tf_data(tokenizer, data) == expected
    batch = next(iter(data.batch(3).map(tokenizer)))
    assert batch.to_list() == expected


@pytest.mark.parametrize("strings", [["to be", ""], [b"to be", b""], ("to be", ""), np.array(["to be", ""])])
def test_any_collection_of_strings_gives_the_same_tokens(tokenizer, strings):
    assert lists(tokenizer(strings)) == lists(tokenizer(["to be", ""]))


@pytest.mark.parametrize("source", [["to be", "be"], [b"to be", b"be"]])
def test_grain_gives_the_same_tokens(tokenizer, source):
    data = grain.MapDataset.source(source)
    expected = lists(tokenizer(["to be", "be"]))
    assert lists(data.map(tokenizer)) == expected
    assert lists(data.batch(2).map(tokenizer)[0]) == expected


def test_a_sequence_length_pads_and_cuts_in_tf_data_too():
    tokenizer = LaurelByteTokenizer(sequence_length=3)
    expected = [[116, 111, 0], [116, 111, 32], [0, 0, 0]]
    assert lists(tokenizer(["to", "to be", ""])) == expected
    assert in_tf_data(tokenizer, tf.data.Dataset.from_tensor_slices(["to", "to be", ""])) == expected


def test_bytes_keep_capitals_unless_told():
    assert lists(LaurelByteTokenizer()(["Hé"])) == [[72, 195, 169]]
    assert lists(LaurelByteTokenizer(lowercase=True)(["H"])) == [[104]]


def test_bytes_that_are_no_text_pass_through():
    tokenizer = LaurelByteTokenizer()
    assert lists(tokenizer([b"a\xff"])) == [[97, 255]]
    assert in_tf_data(tokenizer, tf.data.Dataset.from_tensor_slices([b"a\xff"])) == [[97, 255]]


def test_bytes_of_the_special_tokens_in_a_text_are_these_tokens():
    tokenizer = LaurelByteTokenizer()
    expected = [[97, 3, 0, 98]]
    assert lists(tokenizer(["a\x03\x00b"])) == expected
    assert in_tf_data(tokenizer, tf.data.Dataset.from_tensor_slices(["a\x03\x00b"])) == expected
    assert tokenizer.detokenize(expected) == ["a\x03b"]


def test_the_end_of_text_in_a_text_is_the_token_for_byte_pairs_alone():
    assert lists(MAKERS["byte_pair"]()(["to<|endoftext|>b"])) == [[6, 0, 3]]
    tokenizer = MAKERS["sentence_piece"]()
    assert tokenizer.end_token_id not in lists(tokenizer(["to</s>be"]))[0]


@pytest.mark.parametrize(("name", "cut"), [("bytes", [116, 0xF0, 0x9F]), ("byte_pair", [1, 9, 10])])
def test_a_character_that_is_cut_is_decoded_as_a_replacement(name, cut):
    assert MAKERS[name]().detokenize(cut) == "t\N{REPLACEMENT CHARACTER}"


def test_byte_pairs_split_words_as_gpt2_does():
    # The last space belongs to the word. Without the split, the merge of two spaces comes first: [1, 7, 1].
    tokenizer = MAKERS["byte_pair"]()
    assert lists(tokenizer(["t  t"])) == [[1, 5, 8]]
    assert in_tf_data(tokenizer, tf.data.Dataset.from_tensor_slices(["t  t"])) == [[1, 5, 8]]
    assert lists(LaurelBytePairTokenizer(VOCABULARY, MERGES, add_prefix_space=True)(["t"])) == [[8]]


def test_the_end_token_may_have_another_name():
    vocabulary = {**VOCABULARY, "<eot>": 11}
    tokenizer = LaurelBytePairTokenizer(vocabulary, MERGES, end_token="<eot>")
    assert lists(tokenizer(["to<eot>"])) == [[6, 11]]
    assert tokenizer.end_token_id == tokenizer.start_token_id == 11
    assert LaurelSentencePieceTokenizer(proto(), end_token="<s>").end_token_id == 1


@pytest.mark.parametrize(
    "make",
    [
        lambda: LaurelBytePairTokenizer(VOCABULARY, MERGES, end_token="<eot>"),
        lambda: LaurelSentencePieceTokenizer(proto(), end_token="<eot>"),
    ],
)
def test_a_vocabulary_without_the_end_token_is_refused(make):
    with pytest.raises(ValueError, match="Cannot find special token `'<eot>'`"):
        make()


def test_config_is_complete(tokenizer):
    config = tokenizer.get_config()
    again = type(tokenizer).from_config(config)
    assert again.get_config() == config
    assert again.end_token == tokenizer.end_token


@pytest.mark.parametrize(
    "tokenizer",
    [
        LaurelByteTokenizer(lowercase=True),
        LaurelBytePairTokenizer({**VOCABULARY, "<eot>": 11}, MERGES, end_token="<eot>"),
        LaurelSentencePieceTokenizer(proto(), end_token="<s>"),
    ],
    ids=MAKERS,
)
def test_a_preset_brings_the_tokenizer_back(tokenizer, tmp_path):
    # from_preset wants to know whose tokenizer it is
    (tmp_path / "config.json").write_text(
        json.dumps({"registered_name": keras.saving.get_registered_name(LaurelDecoderBackbone)})
    )
    tokenizer.save_to_preset(str(tmp_path))
    for cls in (type(tokenizer), keras_hub.tokenizers.Tokenizer):
        loaded = cls.from_preset(str(tmp_path))
        assert type(loaded) is type(tokenizer)
        assert (loaded.end_token, loaded.end_token_id) == (tokenizer.end_token, tokenizer.end_token_id)
        assert lists(loaded(["To be"])) == lists(tokenizer(["To be"]))


def test_grain_workers_get_a_copy(tokenizer):
    assert lists(pickle.loads(pickle.dumps(tokenizer))(["to be"])) == lists(tokenizer(["to be"]))


WITHOUT_TENSORFLOW = """
import sys
sys.modules.update(tensorflow=None, tensorflow_text=None)
import grain
from keras_laurel.applications.laurel_decoder.preprocessor import LaurelCausalLMPreprocessor
from keras_laurel.applications.laurel_decoder.tokenizers import LaurelBytePairTokenizer, LaurelByteTokenizer
byte_pair = LaurelBytePairTokenizer({"<|endoftext|>": 0, "t": 1, "o": 2}, [])
for tokenizer in (LaurelByteTokenizer(), byte_pair):
    preprocessor = LaurelCausalLMPreprocessor(tokenizer, sequence_length=3)
    x, y, weight = grain.MapDataset.source(["to"]).map(preprocessor)[0]
    prompt = preprocessor.generate_preprocess("t")
    print(x["token_ids"].tolist(), y.tolist(), weight.tolist(), prompt["token_ids"].tolist())
"""


def test_it_works_without_tensorflow():
    backend = "torch" if keras.backend.backend() == "torch" else "jax"
    assert run_python(WITHOUT_TENSORFLOW, backend=backend).splitlines() == [
        "[3, 116, 111] [116, 111, 3] [1, 1, 1] [3, 116, 0]",
        "[0, 1, 2] [1, 2, 0] [1, 1, 1] [0, 1, 0]",
    ]

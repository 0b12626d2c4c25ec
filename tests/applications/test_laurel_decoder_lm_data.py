import dataclasses
import gzip
import itertools
import json
import lzma

import keras
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from processes import run_python

from applications.errors import UserError
from applications.laurel_decoder_lm import configs, data, sources, tokenization
from keras_laurel.applications.laurel_decoder.sizes import SIZES
from keras_laurel.applications.laurel_decoder.tokenizers import LaurelByteTokenizer

pytestmark = pytest.mark.slow_on("jax", "tensorflow")  # no backend has a part in the data

SMALL = dataclasses.replace(configs.SMOKE, held_out=0.0, context=4, batch_size=2, evaluate_batches=None)
BYTES = LaurelByteTokenizer()
END = BYTES.end_token_id
DOCUMENTS = sources.of_texts("greek", ["alpha", "beta", "gamma", "delta", "epsilon", "zeta"])
FEW = settings(max_examples=20, deadline=None)
TEXTS = st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\x03"), min_size=1), min_size=1, max_size=5)


def texts(documents):
    return [documents[i].text for i in range(len(documents))]


def written(folder, **files):
    for name, content in files.items():
        (folder / f"{name}.txt").write_bytes(content.encode() if isinstance(content, str) else content)
    return dataclasses.replace(SMALL, text=f"files:{folder}/*.txt")


def stream(documents):
    """Returns the bytes of whole documents, each with the end of text."""
    return b"".join(text.encode() + bytes([END]) for text in texts(documents))


def equal(batches, others):
    return all(np.array_equal(a, b) for one, other in zip(batches, others, strict=True) for a, b in zip(one, other))


def taken(batches, count):
    """Returns `count` batches, and ends the thread."""
    found = list(itertools.islice(batches, count))
    batches.close()
    return found


# Configs


@pytest.mark.parametrize("name", configs.CONFIGS)
def test_every_config_is_in_range_and_has_its_command_above_it(name):
    config = configs.checked(configs.named(name))
    assert config.size in SIZES
    with open(configs.__file__) as file:
        text = file.read()
    comment = text[: text.index(f"\n{name.upper()} = ") + 1].rsplit("\n\n", 1)[1]
    assert all(word in comment for word in ("# Paper:", "# Command:", "# Hardware:", "# Result:"))


def test_the_control_has_one_more_block():
    assert configs.with_variant(configs.CPP_DOCS_SMALL, "add+1").num_layers == configs.CPP_DOCS_SMALL.num_layers + 1
    assert configs.with_variant(configs.PAPER_157M, "add+1").num_layers == 25
    assert configs.with_variant(SMALL, "add+1").residual == "add"
    assert configs.with_variant(SMALL, "rw") == dataclasses.replace(SMALL, residual="rw")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("context=1", "context must be at least 2, not 1"),
        ("held_out=0.6", "held_out must be at least 0 and at most 0.5, not 0.6"),
        ("schedule=linear", "unknown schedule 'linear'; known: cosine, wsd"),
        ("warmup_steps=8", "warmup_steps must be below steps (8), not 8"),
        ("shards=3", "batch_size must be a multiple of shards (3), not 4"),
        ("contexts=1", "unknown setting 'contexts'; known: text, test_text"),
    ],
)
def test_settings_out_of_range_are_refused(setting, message):
    with pytest.raises(UserError) as error:
        configs.with_settings(configs.SMOKE, [setting])
    assert str(error.value).startswith(message)


def test_an_unknown_config_lists_the_known_ones():
    with pytest.raises(UserError, match="unknown config 'near'; known: smoke, cpp_docs_small"):
        configs.named("near")


# Sources


def test_a_file_is_a_document_and_each_file_is_read_once(tmp_path):
    config = written(tmp_path, b="two\n", a="one\n")
    assert texts(sources.load(config).train) == ["one\n", "two\n"]
    config = dataclasses.replace(config, text=f"{config.text},{tmp_path}/a.*")
    assert texts(sources.load(config).train) == ["one\n", "two\n"]


def test_lines_with_the_end_of_text_divide_documents(tmp_path):
    content = "<|endoftext|>\na\n<|endoftext|>\r\nnot <|endoftext|>\n<|endoftext|>!\n<|endoftext|>\n \n<|endoftext|>"
    train = sources.load(written(tmp_path, a=content)).train
    assert texts(train) == ["a\n", "not <|endoftext|>\n<|endoftext|>!\n"]
    assert all(train[i].ends for i in range(2))


def test_paragraphs_with_the_start_divide_documents(tmp_path):
    config = dataclasses.replace(written(tmp_path, a="# A\n# a\n\n## b\n\n# B\n\r\n# C"), document_start="# ")
    assert texts(sources.load(config).train) == ["# A\n# a\n\n## b\n\n", "# B\n\r\n", "# C"]


def test_long_documents_come_in_pieces_of_paragraphs_lines_and_words(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "LONGEST", 8)
    train = sources.load(written(tmp_path, a="abcd\n\ne\nfghij\nklmno pqrstuvwxäöüß")).train
    assert texts(train) == ["abcd\n\n", "e\nfghij\n", "klmno ", "pqrstuvw", "xäöü", "ß"]
    assert [train[i].ends for i in range(len(train))] == [False] * 5 + [True]


@FEW
@given(texts=TEXTS, part=st.sampled_from([0.0, 0.1, 0.5]), longest=st.integers(4, 12))
def test_documents_are_the_text_and_nothing_is_both_trained_on_and_held_out(texts, part, longest, tmp_path_factory):
    text = "A" + "\n".join(texts) + "Z"
    config = written(tmp_path_factory.mktemp("files"), a=text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sources, "LONGEST", longest)
        try:
            loaded = sources.load(dataclasses.replace(config, held_out=part))
        except UserError:
            assume(len(text.encode()) >= 20)
            raise
    parts = [loaded.train] if loaded.held_out is None else [loaded.train, loaded.held_out]
    pieces = [documents[i] for documents in parts for i in range(len(documents))]
    assert "".join(piece.text for piece in pieces) == text
    assert [piece.ends for piece in pieces] == [False] * (len(pieces) - 1) + [True]
    assert sum(documents.num_bytes for documents in parts) == len(text.encode())


def test_each_how_manieth_document_is_held_out(tmp_path):
    config = written(tmp_path, a="\n<|endoftext|>\n".join("abcdefg"))
    loaded = sources.load(dataclasses.replace(config, held_out=0.3))
    assert "".join(texts(loaded.train)).split() == list("abdeg")
    assert "".join(texts(loaded.held_out)).split() == list("cf")
    assert texts(sources.load(dataclasses.replace(config, held_out=0.3, seed=5)).held_out) == texts(loaded.held_out)


def test_of_few_documents_the_last_bytes_are_held_out(tmp_path):
    config = written(tmp_path, a="a" * 60, b="b" * 19 + "\n" + "c" * 20)
    loaded = sources.load(dataclasses.replace(config, held_out=0.2))
    assert texts(loaded.train) == ["a" * 60, "b" * 19 + "\n"]
    assert texts(loaded.held_out) == ["c" * 20]
    assert [loaded.train[i].ends for i in range(2)] == [True, False]


def test_a_test_text_is_read_whole(tmp_path):
    config = dataclasses.replace(SMALL, held_out=0.01, test_text=written(tmp_path, a="test\n").text)
    loaded = sources.load(config)
    assert texts(loaded.test) == ["test\n"]
    shakespeare = "".join(texts(loaded.train) + texts(loaded.held_out))
    assert shakespeare.startswith("First Citizen:")
    assert (len(shakespeare), loaded.train.num_bytes + loaded.held_out.num_bytes) == (1_115_394, 1_115_394)
    assert 0.005 < loaded.held_out.num_bytes / 1_115_394 < 0.02


@pytest.mark.parametrize(("ending", "compress"), [("xz", lzma.compress), ("gz", gzip.compress)])
def test_compressed_files_are_decompressed_once(ending, compress, tmp_path):
    path = tmp_path / f"a.txt.{ending}"
    config = dataclasses.replace(SMALL, text=f"files:{path}", data_dir=str(tmp_path / "data"))
    for content in ("one\n", "other\n"):
        path.write_bytes(compress(content.encode()))
        assert texts(sources.load(config).train) == [content]
        assert texts(sources.load(config).train) == [content]
    assert len(list((tmp_path / "data").iterdir())) == 2


@pytest.fixture(scope="module")
def tfds_folder(tmp_path_factory):
    """TFDS sets: ten texts, the same without random access, and one of numbers."""
    import tensorflow_datasets as tfds

    class TinyText(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(self._features()))

        def _features(self):
            return {"text": tfds.features.Text(), "url": tfds.features.Text()}

        def _split_generators(self, manager):
            return {"train": self._generate_examples(range(10)), "validation": self._generate_examples([10])}

        def _generate_examples(self, numbers):
            for i in numbers:
                yield i, {"text": f"text ä {i}", "url": "https://"}

    class TinyDigits(TinyText):
        def _features(self):
            return {"number": tfds.features.Scalar(np.int64)}

        def _generate_examples(self, numbers):
            for i in numbers:
                yield i, {"number": i}

    class TinyRecords(TinyText):
        pass

    folder = tmp_path_factory.mktemp("tfds")
    TinyRecords(data_dir=folder, file_format="tfrecord").download_and_prepare()
    return folder


def test_any_text_set_of_tfds(tfds_folder):
    config = dataclasses.replace(SMALL, text="tfds:tiny_text", data_dir=str(tfds_folder), held_out=0.25)
    loaded = sources.load(config)
    assert (len(loaded.train), len(loaded.held_out), texts(loaded.test)) == (8, 2, ["text ä 10"])
    assert sorted(texts(loaded.train) + texts(loaded.held_out)) == [f"text ä {i}" for i in range(10)]
    whole = sources.load(dataclasses.replace(config, held_out=0.0))
    assert texts(loaded.held_out) == [texts(whole.train)[i] for i in (3, 7)]
    assert whole.held_out is None
    assert texts(sources.load(dataclasses.replace(SMALL, test_text=config.text, data_dir=config.data_dir)).test) == [
        "text ä 10"
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tfds:tiny_records", "tfds:tiny_records is prepared in a format without random access"),
        ("tfds:tiny_digits", "tfds:tiny_digits is no text set: it has no feature text; its features are number"),
        ("tfds:no_such_set", "TFDS knows no data set 'no_such_set'"),
    ],
)
def test_other_sets_of_tfds_are_refused(text, message, tfds_folder):
    with pytest.raises(UserError, match=message):
        sources.load(dataclasses.replace(SMALL, text=text, data_dir=str(tfds_folder)))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("books", "unknown text 'books'; known: shakespeare, files:GLOB"),
        ("files:", "unknown text 'files:'"),
        ("files:good.txt,missing/*.txt", "no file matches missing/*.txt"),
        ("files:good.txt,empty.txt", "empty.txt is empty"),
        ("files:latin.txt", "latin.txt is not UTF-8 text: byte 1048575 cannot be decoded"),
        ("files:cut.txt", "cut.txt is not UTF-8 text: byte 1 cannot be decoded"),
        ("files:broken.xz", "cannot decompress broken.xz to runs/data/broken-"),
        ("files:cut.gz", "cannot decompress cut.gz to runs/data/cut-"),
        ("files:blank.txt", "files:blank.txt has nothing but white space"),
        ("files:good.txt", "held_out=0.01 leaves nothing of files:good.txt to hold out"),
    ],
)
def test_bad_files_are_named(text, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    written(tmp_path, good="good", empty="", blank=" \n", latin="a" * (2**20 - 1) + "ää", cut=b"a\xc3")
    with open("latin.txt", "r+b") as file:
        file.seek(2**20)
        file.write(b"a")
    (tmp_path / "broken.xz").write_bytes(b"broken")
    (tmp_path / "cut.gz").write_bytes(gzip.compress(b"text")[:-4])
    config = dataclasses.replace(SMALL, text=text, held_out=0.01 if "hold out" in message else 0.5)
    with pytest.raises(UserError) as error:
        sources.load(config)
    assert str(error.value).startswith(message)


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "a.xz").write_bytes(lzma.compress(b"text"))
    config = dataclasses.replace(SMALL, text=f"files:{tmp_path}/a.xz", data_dir=str(tmp_path / "a.xz"))
    with pytest.raises(UserError, match=r"cannot write to the folder .*a\.xz"):
        sources.load(config)


# Batches


@FEW
@given(TEXTS, st.integers(2, 9))
def test_an_evaluation_predicts_each_token_once(strings, context):
    documents = sources.of_texts("drawn", strings)
    config = dataclasses.replace(SMALL, context=context)
    batches = data.evaluation_batches(config, documents, BYTES)
    inputs, targets, weights = (np.concatenate(arrays) for arrays in zip(*batches))
    assert inputs.shape == targets.shape == weights.shape
    assert (len(inputs) % config.batch_size, inputs.shape[1]) == (0, context)
    assert set(np.unique(weights)) <= {0.0, 1.0}
    stream_of_targets = targets[weights > 0].astype("uint8").tobytes()
    found = stream_of_targets.split(bytes([END]))
    assert sorted(found) == sorted([*(text.encode() for text in strings), b""])
    # Each target's input is the token before it, and the first document follows an end of text too.
    assert inputs[weights > 0].astype("uint8").tobytes() == bytes([END]) + stream_of_targets[:-1]
    assert equal(batches, batches)


def test_an_evaluation_can_end_early():
    batches = list(data.evaluation_batches(SMALL, DOCUMENTS, BYTES))
    first = data.evaluation_batches(dataclasses.replace(SMALL, evaluate_batches=2), DOCUMENTS, BYTES)
    assert len(batches) > 2
    assert equal(first, batches[:2])


def test_a_piece_that_does_not_end_its_document_has_no_end_of_text():
    pieces = [sources.Document("abc", False), sources.Document("de", True)]
    documents = sources.Documents("cut", 2, pieces.__getitem__)
    (batch,) = data.evaluation_batches(dataclasses.replace(SMALL, context=6, batch_size=1), documents, BYTES)
    a, b, c, d, e = b"abcde"
    found = [array[0].tolist() for array in batch]
    assert found in (
        [[END, a, b, END, d, e], [a, b, c, d, e, END], [1.0] * 6],
        [[END, d, e, END, a, b], [d, e, END, a, b, c], [1.0] * 6],
    )


def epochs(config, count, documents=DOCUMENTS):
    """Returns the bytes of the targets of `count` epochs, in the order of a run without shuffled windows."""
    size = len(stream(documents))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data, "SHUFFLED_BATCHES", 1)
        batches = taken(data.training_batches(config, documents, BYTES), -(-count * size // config.context))
    targets = np.concatenate([targets for _, targets in batches]).astype("uint8").tobytes()[: count * size]
    return [targets[i * size : (i + 1) * size] for i in range(count)]


def test_each_epoch_has_each_document_once_in_an_order_of_its_own():
    config = dataclasses.replace(SMALL, batch_size=1)
    first, second = epochs(config, 2)
    for epoch in (first, second):
        assert sorted(epoch.split(bytes([END]))) == sorted(stream(DOCUMENTS).split(bytes([END])))
    assert len({first, second, *epochs(dataclasses.replace(config, seed=1), 2)}) == 4


def test_windows_are_shuffled():
    config = dataclasses.replace(SMALL, batch_size=1, context=2)
    size = len(stream(DOCUMENTS)) // 2
    batches = taken(data.training_batches(config, DOCUMENTS, BYTES), data.SHUFFLED_BATCHES)
    assert size <= data.SHUFFLED_BATCHES
    first = np.concatenate([targets for _, targets in batches]).astype("uint8").tobytes()
    assert first[: 2 * size] != epochs(config, 1)[0][: 2 * size]


def test_batches_depend_on_the_seed_alone():
    first = taken(data.training_batches(SMALL, DOCUMENTS, BYTES), 5)
    keras.utils.set_random_seed(7)
    assert all(array.shape == (2, 4) and array.dtype == np.int32 for batch in first for array in batch)
    assert equal(first, taken(data.training_batches(SMALL, DOCUMENTS, BYTES), 5))
    other = dataclasses.replace(SMALL, seed=1)
    assert not equal(first, taken(data.training_batches(other, DOCUMENTS, BYTES), 5))


@settings(max_examples=6, deadline=None)
@given(done=st.integers(0, 12), context=st.integers(2, 9), shuffled=st.integers(1, 4), seed=st.integers(0, 9))
def test_a_run_goes_on_with_the_batches_that_it_would_have_seen(done, context, shuffled, seed):
    # Grain takes milliseconds to draw from few documents or windows.
    documents = sources.of_texts("numbers", [str(i) for i in range(90, 120)])
    config = dataclasses.replace(SMALL, context=context, seed=seed, batch_size=8)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data, "SHUFFLED_BATCHES", shuffled)
        whole = data.training_batches(config, documents, BYTES)
        list(itertools.islice(whole, done))
        state = json.loads(json.dumps(whole.get_state()))
        again = data.training_batches(config, documents, BYTES)
        next(again)
        again.set_state(state)
        assert json.loads(json.dumps(again.get_state())) == state
        assert equal(taken(whole, 9), taken(again, 9))


ANOTHER_PROCESS = """
import json, sys
from applications.laurel_decoder_lm import configs, data, sources

class Tokenizer:
    end_token_id = 3

    def __call__(self, text):
        return list(text.encode())

config = configs.Config(**json.loads(sys.argv[1]))
documents = sources.of_texts("greek", json.loads(sys.argv[2]))
batches = data.training_batches(config, documents, Tokenizer())
batches.set_state(json.loads(sys.argv[3]))
print(json.dumps([array.tolist() for array in next(batches)]))
batches.close()
"""


def test_another_process_goes_on_likewise():
    batches = data.training_batches(SMALL, DOCUMENTS, BYTES)
    next(batches)
    arguments = configs.as_json(SMALL), texts(DOCUMENTS), batches.get_state()
    printed = run_python(ANOTHER_PROCESS, *map(json.dumps, arguments), backend=keras.backend.backend())
    assert json.loads(printed) == [array.tolist() for (batch) in taken(batches, 1) for array in batch]


def test_a_place_in_another_text_is_refused():
    batches = data.training_batches(SMALL, DOCUMENTS, BYTES)
    other = data.training_batches(SMALL, sources.of_texts("greek", [*texts(DOCUMENTS)[:-1], "eta"]), BYTES)
    with pytest.raises(UserError, match="the text is not that of the checkpoint: bytes was 30 and is 29"):
        other.set_state(batches.get_state())


def test_shards_read_documents_of_their_own():
    seen = []
    config = dataclasses.replace(SMALL, shards=4, batch_size=4)
    for index in range(4):
        targets = [targets for _, targets in taken(data.training_batches(config, DOCUMENTS, BYTES, (index, 4)), 64)]
        seen.append(set(np.unique(targets)) - {END})
    expected = [{*b"alphaepsilon"}, {*b"betazeta"}, {*b"gamma"}, {*b"delta"}]
    assert seen == expected


@pytest.mark.parametrize("shards", [1, 2, 3, 6])
def test_the_parts_of_a_batch_together_are_the_batch(shards):
    config = dataclasses.replace(SMALL, shards=shards, batch_size=6)
    whole = taken(data.training_batches(config, DOCUMENTS, BYTES), 5)
    parts = [taken(data.training_batches(config, DOCUMENTS, BYTES, (index, 2)), 5) for index in range(2)]
    for batch, first, second in zip(whole, *parts, strict=True):
        for array, *halves in zip(batch, first, second):
            np.testing.assert_array_equal(array, np.concatenate(halves))


def test_the_places_of_processes_are_those_of_one():
    config = dataclasses.replace(SMALL, shards=2, batch_size=2)
    one, *two = (data.training_batches(config, DOCUMENTS, BYTES, part) for part in ((0, 1), (0, 2), (1, 2)))
    for batches in (one, *two):
        taken(batches, 3)
    assert data.together([batches.get_state() for batches in two]) == one.get_state()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shards": 7}, r"greek has 6 document\(s\) to train on, too few for shards=7"),
        ({"context": 37}, "greek has 36 tokens to train on, fewer than context=37"),
        ({"shards": 6, "batch_size": 6, "context": 7}, "greek has 6 tokens to train on, fewer than context=7"),
    ],
)
def test_too_short_a_text_is_refused(changes, message):
    with pytest.raises(UserError, match=message):
        data.training_batches(dataclasses.replace(SMALL, **changes), DOCUMENTS, BYTES)
    if changes == {"context": 37}:
        data.training_batches(dataclasses.replace(SMALL, context=36), DOCUMENTS, BYTES)


# Tokenizers


PLAY = "First Citizen:\n\n  Before we proceed any further, hear me speak. \u00e4\u00f6\u00fc \U0001f600\n"


@pytest.fixture(params=["bytes", "bpe:300", "sentencepiece:300"])
def trained(request, tmp_path):
    documents = sources.of_texts("play", [PLAY * 4])
    config = dataclasses.replace(SMALL, tokenizer=request.param)
    return config, tokenization.load(config, documents, tmp_path), tmp_path


@pytest.mark.parametrize("text", [PLAY, "never seen: \u03b1\u03b2\u03b3 1234567\t\tx"])
def test_tokenizers_keep_text_and_count_its_bytes(trained, text):
    config, tokenizer, _ = trained
    tokens = tokenizer(text)
    assert tokenizer.detokenize(tokens) == text
    lengths = tokenization.token_bytes(tokenizer)
    assert (len(lengths), lengths[tokenizer.end_token_id]) == (tokenizer.vocabulary_size(), 0)
    assert lengths[tokens].sum() == len(text.encode())
    if config.tokenizer != "bytes":
        assert tokenizer.vocabulary_size() <= 300
        assert len(tokenizer(PLAY)) < len(PLAY.encode())


def test_a_run_keeps_its_tokenizer_and_another_takes_it(trained, tmp_path):
    config, tokenizer, folder = trained
    kept = tokenization.load(config, None, folder)
    assert np.array_equal(kept(PLAY), tokenizer(PLAY))
    if config.tokenizer != "bytes":
        other = dataclasses.replace(config, tokenizer=str(folder / "tokenizer"))
        assert np.array_equal(tokenization.load(other, None, tmp_path / "other")(PLAY), tokenizer(PLAY))
        assert np.array_equal(tokenization.load(config, None, tmp_path / "other")(PLAY), tokenizer(PLAY))


def test_a_tokenizer_is_trained_on_a_sample(monkeypatch):
    documents = sources.of_texts("many", ["word"] * 100)
    monkeypatch.setattr(tokenization, "SAMPLE_BYTES", 10)
    assert list(tokenization._sample(documents)) == ["word"] * 3


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("characters", "unknown tokenizer 'characters'; known: bytes, bpe:SIZE, sentencepiece:SIZE"),
        ("bpe:many", "unknown tokenizer 'bpe:many'"),
        ("bpe:256", "bpe:256 is too small: the bytes and the end of text need 257 tokens"),
        ("sentencepiece:20", "cannot train sentencepiece:20 on greek: "),
    ],
)
def test_other_tokenizers_are_refused(name, message, tmp_path):
    with pytest.raises(UserError) as error:
        tokenization.load(dataclasses.replace(SMALL, tokenizer=name), DOCUMENTS, tmp_path)
    assert str(error.value).startswith(message)
    assert not (tmp_path / "tokenizer").exists()


@pytest.mark.parametrize("name", ["byte_pair.json", "sentence_piece.model"])
def test_a_broken_tokenizer_is_named(name, tmp_path):
    (tmp_path / "tokenizer").mkdir()
    (tmp_path / "tokenizer" / name).write_text("{}")
    with pytest.raises(UserError, match=f"{name} is no tokenizer of this program"):
        tokenization.load(dataclasses.replace(SMALL, tokenizer="bpe:300"), DOCUMENTS, tmp_path)

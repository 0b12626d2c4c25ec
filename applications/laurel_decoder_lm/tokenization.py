"""The tokenizer of a run: bytes, or one that is trained on the documents to train on and kept with the run."""

import io
import json
import shutil
from pathlib import Path

import grain
import numpy as np
import sentencepiece
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from applications.errors import UserError
from applications.files import writable_folder, write_whole
from applications.laurel_decoder_lm.sources import END_OF_TEXT
from keras_laurel.applications.laurel_decoder.tokenizers import (
    LaurelBytePairTokenizer,
    LaurelByteTokenizer,
    LaurelSentencePieceTokenizer,
)

FORMS = "bytes, bpe:SIZE, sentencepiece:SIZE, or the folder of a tokenizer that was saved"
SAMPLE_BYTES = 20_000_000
_BYTE_PAIR_FILE = "byte_pair.json"
_SENTENCE_PIECE_FILE = "sentence_piece.model"


def load(config, documents, folder):
    """Returns the tokenizer that `config` names.

    One that is trained is kept in `folder/tokenizer`, and taken from there when it is there. It sees at most 20 MB of
    the documents, from all over the text. A tokenizer of another folder is copied there.

    Args:
        config: A `Config`.
        documents: The `sources.Documents` to train on; not used where `folder` has the tokenizer.
        folder: Folder of the run.

    Returns:
        A tokenizer of `keras_laurel.applications.laurel_decoder.tokenizers`.

    Raises:
        UserError: If the name is no tokenizer's, or the documents are too few for its size.
    """
    if config.tokenizer == "bytes":
        return LaurelByteTokenizer()
    kept = Path(folder) / "tokenizer"
    if _file_in(kept) is None:
        kind, _, size = config.tokenizer.partition(":")
        given = _file_in(Path(config.tokenizer))
        if given is not None:
            write_whole(writable_folder(kept) / given.name, lambda path: shutil.copyfile(given, path))
        elif kind == "bpe" and size.isdecimal():
            vocabulary = _byte_pairs(int(size), documents)
            write_whole(writable_folder(kept) / _BYTE_PAIR_FILE, lambda path: Path(path).write_text(vocabulary))
        elif kind == "sentencepiece" and size.isdecimal():
            proto = _sentence_pieces(int(size), documents)
            write_whole(writable_folder(kept) / _SENTENCE_PIECE_FILE, lambda path: Path(path).write_bytes(proto))
        else:
            raise UserError(f"unknown tokenizer {config.tokenizer!r}; known: {FORMS}")
    return _saved(_file_in(kept))


def token_bytes(tokenizer):
    """Returns an int array of the number of UTF-8 bytes that each token stands for; 0 for special tokens."""
    if isinstance(tokenizer, LaurelBytePairTokenizer):
        lengths = np.zeros(tokenizer.vocabulary_size(), "int32")
        for token, index in tokenizer.vocabulary.items():
            lengths[index] = len(token)  # a character of GPT-2's alphabet is a byte
    elif isinstance(tokenizer, LaurelSentencePieceTokenizer):
        lengths = np.array(
            [_piece_bytes(tokenizer.id_to_token(i)) for i in range(tokenizer.vocabulary_size())], "int32"
        )
    else:
        lengths = np.ones(tokenizer.vocabulary_size(), "int32")
    lengths[tokenizer.end_token_id] = 0
    return lengths


def _file_in(folder):
    """Returns the path of the tokenizer in `folder`, or `None`."""
    paths = (folder / _BYTE_PAIR_FILE, folder / _SENTENCE_PIECE_FILE)
    return next((path for path in paths if path.is_file()), None)


def _saved(path):
    try:
        if path.name == _BYTE_PAIR_FILE:
            saved = json.loads(path.read_text())
            return LaurelBytePairTokenizer(saved["vocabulary"], saved["merges"])
        proto = path.read_bytes()
        sentencepiece.SentencePieceProcessor(model_proto=proto)  # whose error is a RuntimeError on every backend
        return LaurelSentencePieceTokenizer(proto)
    except (KeyError, RuntimeError, TypeError, ValueError) as error:
        raise UserError(f"{path} is no tokenizer of this program, or is broken") from error


def _sample(documents):
    """Yields texts of documents from all over the text, up to `SAMPLE_BYTES`."""
    size = 0
    for document in grain.MapDataset.source(documents).shuffle(seed=0):
        yield document.text
        size += len(document.text.encode())
        if size >= SAMPLE_BYTES:
            return


def _byte_pairs(size, documents):
    """Returns the vocabulary and the merges of a trained byte-level BPE, as JSON."""
    least = 257
    if size < least:
        raise UserError(f"bpe:{size} is too small: the bytes and the end of text need {least} tokens")
    tokenizer = Tokenizer(models.BPE())
    # The words of GPT-2, by which `LaurelBytePairTokenizer` encodes: a merge across two words would never be used.
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_sample(documents), trainer)
    model = json.loads(tokenizer.to_str())["model"]
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    return json.dumps({"vocabulary": model["vocab"], "merges": merges})


def _sentence_pieces(size, documents):
    """Returns a trained SentencePiece model that keeps every character, as bytes."""
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=(line for text in _sample(documents) for line in text.splitlines(keepends=True)),
            model_writer=model,
            vocab_size=size,
            hard_vocab_limit=False,
            byte_fallback=True,
            normalization_rule_name="identity",
            add_dummy_prefix=False,
            remove_extra_whitespaces=False,
            allow_whitespace_only_pieces=True,
            max_sentence_length=16_384,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise UserError(f"cannot train sentencepiece:{size} on {documents.name}: {error}") from error
    return model.getvalue()


def _piece_bytes(piece):
    if piece in ("<unk>", "<s>", "</s>"):
        return 0
    if len(piece) == 6 and piece.startswith("<0x"):
        return 1
    return len(piece.replace("\N{LOWER ONE EIGHTH BLOCK}", " ").encode())

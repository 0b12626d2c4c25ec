"""Tokenizers of the LAuReL decoder: bytes, byte-pair encoding and SentencePiece, all three keras-hub's.

Each has one special token, the end of a document, which is the start token too, as in GPT-2: documents are packed as
`document end document end ...`, so a document always follows an end token. Padding is known by its mask, and its id, 0,
may be a token's, as in keras-hub.
"""

import sys
from pathlib import Path

import keras
import keras_hub
import numpy as np
from tokenizers import pre_tokenizers

from keras_laurel.applications.laurel_decoder.backbone import LaurelDecoderBackbone


def graph_tensorflow():
    """Returns TensorFlow while it traces a graph, as in `tf.data` and `tf.function`, else `None`. Never imports it."""
    tensorflow = sys.modules.get("tensorflow")
    return tensorflow if tensorflow is not None and not tensorflow.executing_eagerly() else None


def _as_python(strings):
    if isinstance(strings, np.ndarray):
        strings = strings.tolist()
    if isinstance(strings, list | tuple):
        return [_as_python(string) for string in strings]
    return strings.decode("utf-8") if isinstance(strings, bytes) else strings


# `_add_special_token`, ahead of `super().__init__`, is how keras-hub's own GPT2Tokenizer and LlamaTokenizer name their
# special tokens. It has no public form; in return, a vocabulary without the token is refused.


@keras.saving.register_keras_serializable(package="keras_laurel")
class LaurelByteTokenizer(keras_hub.tokenizers.ByteTokenizer):
    """Takes the bytes of the UTF-8 text as tokens: a vocabulary of 256, and no file.

    The end token is byte 3, which ASCII names "end of text"; the padding is byte 0. A text with these bytes, which none
    ought to have, gives these tokens: byte 3 ends a document, as `<|endoftext|>` in a text does for GPT-2, and
    `detokenize` leaves byte 0 out.

    Tokens that end within a character, as generated ones may, are decoded with U+FFFD in its place.

    Args:
        lowercase: Whether to fold the text to lower case. Defaults to `False`: keras-hub's `True` loses capitals.
        **kwargs: Other arguments of `keras_hub.tokenizers.ByteTokenizer`, such as `normalization_form` and `errors`.

    Call arguments:
        inputs: A string, a list or array of them, or a string tensor of `tf.data`.

    Example:
    >>> from keras_laurel.applications.laurel_decoder.tokenizers import LaurelByteTokenizer
    >>> tokenizer = LaurelByteTokenizer()
    >>> tokenizer(["Hé", ""])
    [[72, 195, 169], []]
    >>> tokenizer.detokenize([72, 195, 169])
    'Hé'
    >>> tokenizer.end_token_id, tokenizer.vocabulary_size()
    (3, 256)
    """

    backbone_cls = LaurelDecoderBackbone

    def __init__(self, lowercase=False, **kwargs):
        self._add_special_token("\x03", "end_token")
        self._add_special_token("\x03", "start_token")
        self.pad_token_id = 0
        super().__init__(lowercase=lowercase, **kwargs)

    def tokenize(self, inputs):
        tf = graph_tensorflow()
        if tf is None:
            return super().tokenize(inputs)
        # In a graph keras-hub fails on a batch without a single byte, such as an empty line. Each text lends it a zero,
        # which is the padding where there is a `sequence_length`.
        tokens = super().tokenize(tf.strings.join([inputs, "\0"]))
        return tokens if self.sequence_length else tokens[..., :-1]

    # Without these, `save_to_preset` and `from_preset` stumble over a tokenizer that has no file.

    def save_assets(self, dir_path):
        pass

    def load_preset_assets(self, preset):
        pass


@keras.saving.register_keras_serializable(package="keras_laurel")
class LaurelBytePairTokenizer(keras_hub.tokenizers.BytePairTokenizer):
    """Splits text by byte-pair encoding, with a vocabulary and merges in GPT-2's format.

    The vocabulary has to contain the end token, which may also stand in a text. It should contain GPT-2's 256 byte
    symbols as well: what it has no token for is dropped, and is token -1 in `tf.data`.

    Text is split into words by GPT-2's rule, in `tf.data` and outside; they may differ in the spaces that end a text.

    Args:
        vocabulary: Dict from token to id, or the path of a JSON file of one.
        merges: List of merges such as `"Ġ t"`, by rank, or the path of a file with one a line.
        end_token: The token in `vocabulary` that ends a document. Defaults to `"<|endoftext|>"`, GPT-2's.
        **kwargs: Other arguments of `keras_hub.tokenizers.BytePairTokenizer`, such as `add_prefix_space`.

    Call arguments:
        inputs: A string, a list or array of them, or a string tensor of `tf.data`.

    Raises:
        ValueError: If `vocabulary` lacks `end_token`, or a part of a merge.

    Example:
    >>> from keras_laurel.applications.laurel_decoder.tokenizers import LaurelBytePairTokenizer
    >>> vocabulary = {"<|endoftext|>": 0, "a": 1, "t": 2, "Ġ": 3, "at": 4}
    >>> tokenizer = LaurelBytePairTokenizer(vocabulary, merges=["a t"])
    >>> tokenizer(["at a<|endoftext|>", "t"])
    [[4, 3, 1, 0], [2]]
    >>> tokenizer.detokenize([4, 3, 1])
    'at a'
    """

    backbone_cls = LaurelDecoderBackbone

    def __init__(self, vocabulary=None, merges=None, end_token="<|endoftext|>", **kwargs):
        self._add_special_token(end_token, "end_token")
        self._add_special_token(end_token, "start_token")
        self.pad_token_id = 0
        super().__init__(vocabulary=vocabulary, merges=merges, **kwargs)

    def set_vocabulary_and_merges(self, vocabulary, merges):
        super().set_vocabulary_and_merges(vocabulary, merges)
        # keras-hub 0.32's Python code passes its pattern on as a literal string, and so never splits words, which its
        # TensorFlow code does: `fit` on `tf.data` and `generate` would not see the same tokens.
        if self._tokenizer is not None:
            self._tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=self.add_prefix_space)

    def tokenize(self, inputs):
        # Grain's batches are arrays and TFDS's strings are bytes, which keras-hub's Python code refuses here alone.
        return super().tokenize(_as_python(inputs))

    def get_config(self):
        return {**super().get_config(), "end_token": self.end_token}


@keras.saving.register_keras_serializable(package="keras_laurel")
class LaurelSentencePieceTokenizer(keras_hub.tokenizers.SentencePieceTokenizer):
    """Splits text by a SentencePiece model.

    What text survives is the model's choice: by default SentencePiece trains models that turn line breaks into spaces,
    spaces into one, and unknown characters into one token. For a language model, train with
    `normalization_rule_name="identity"`, `remove_extra_whitespaces=False` and `byte_fallback=True`.

    `end_token` within a text is text, not the token.

    Args:
        proto: The model, as bytes or as the path of a file.
        end_token: The piece that ends a document. Defaults to `"</s>"`, SentencePiece's.
        **kwargs: Other arguments of `keras_hub.tokenizers.SentencePieceTokenizer`.

    Call arguments:
        inputs: A string, a list or array of them, or a string tensor of `tf.data`.

    Raises:
        ValueError: If `proto` lacks `end_token`.

    Example:
    >>> import io
    >>> import sentencepiece
    >>> from keras_laurel.applications.laurel_decoder.tokenizers import LaurelSentencePieceTokenizer
    >>> file = io.BytesIO()
    >>> sentencepiece.SentencePieceTrainer.train(
    ...     sentence_iterator=iter(["to be or not to be"]), model_writer=file, vocab_size=11, minloglevel=2
    ... )
    >>> tokenizer = LaurelSentencePieceTokenizer(file.getvalue())
    >>> tokenizer.detokenize(tokenizer("not to be"))
    'not to be'
    >>> tokenizer.id_to_token(tokenizer.end_token_id)
    '</s>'
    """

    backbone_cls = LaurelDecoderBackbone

    def __init__(self, proto=None, end_token="</s>", **kwargs):
        self._add_special_token(end_token, "end_token")
        self._add_special_token(end_token, "start_token")
        self.pad_token_id = 0
        super().__init__(proto=proto, **kwargs)

    def load_assets(self, dir_path):
        # As keras-hub does, but closing the file.
        self.set_proto(Path(dir_path, self.file_assets[0]).read_bytes())

    def get_config(self):
        return {**super().get_config(), "end_token": self.end_token}

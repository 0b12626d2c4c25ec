"""From strings to the inputs and labels of the LAuReL decoder LM, and back."""

import keras
import keras_hub
import numpy as np
from keras import ops

from keras_laurel.applications.laurel_decoder.backbone import LaurelDecoderBackbone
from keras_laurel.applications.laurel_decoder.tokenizers import graph_tensorflow


@keras.saving.register_keras_serializable(package="keras_laurel")
class LaurelCausalLMPreprocessor(keras_hub.models.CausalLMPreprocessor):
    """Turns strings into padded tokens with their labels, and generated tokens into strings.

    When called, as by `fit`, it makes one example of each string: the start token, the string's tokens, the end token,
    padding. The labels are the tokens one later. A longer string is cut, and the cut counts as its end: long texts want
    splitting or packing before `fit`.

    A prompt of `generate` is not cut: one that does not fit is an error.

    Args:
        tokenizer: `LaurelByteTokenizer`, `LaurelBytePairTokenizer` or `LaurelSentencePieceTokenizer`.
        sequence_length: Tokens of an example, and at most of a prompt with what is generated. Defaults to 1024.
        add_start_token: Whether a training example begins with the start token; prompts do. Defaults to `True`.
        add_end_token: Whether a training example closes with the end token. Defaults to `True`.
        **kwargs: Standard layer arguments, such as `name`.

    Call arguments:
        x: A string, a list or array of them, or a string tensor of `tf.data`.
        sequence_length: Overrides that of the layer.

    Returns:
        `(x, y, sample_weight)`: a dict of `token_ids` and `padding_mask`, the labels, and which of them count; ones
        and zeros where keras_hub has bools, which `fit` of TensorFlow cannot divide over devices.

    Example:
    >>> from keras_laurel.applications.laurel_decoder.preprocessor import LaurelCausalLMPreprocessor
    >>> from keras_laurel.applications.laurel_decoder.tokenizers import LaurelByteTokenizer
    >>> preprocessor = LaurelCausalLMPreprocessor(LaurelByteTokenizer(), sequence_length=5)
    >>> x, y, sample_weight = preprocessor("abc")
    >>> np.array(x["token_ids"]).tolist(), np.array(y).tolist()
    ([3, 97, 98, 99, 3], [97, 98, 99, 3, 0])
    >>> prompt = preprocessor.generate_preprocess("abc")
    >>> np.array(prompt["token_ids"]).tolist()
    [3, 97, 98, 99, 0]
    >>> preprocessor.generate_postprocess(prompt)
    'abc'
    """

    backbone_cls = LaurelDecoderBackbone
    tokenizer_cls = keras_hub.tokenizers.Tokenizer  # a preset names its own

    def call(self, x, y=None, sample_weight=None, sequence_length=None):
        x, y, sample_weight = super().call(x, y, sample_weight, sequence_length)
        return {**x, "padding_mask": _as_integers(x["padding_mask"])}, y, _as_integers(sample_weight)

    def generate_preprocess(self, x, sequence_length=None):
        """Turns prompts into `token_ids` and `padding_mask` for `generate`: the start token, the prompt's, padding.

        Args:
            x: A string, a list or array of them, or a string tensor of `tf.data`.
            sequence_length: Tokens of the prompt with what is to be generated. Defaults to the layer's.

        Raises:
            ValueError: If a prompt is longer than `sequence_length`; in a TensorFlow graph, `InvalidArgumentError`.
        """
        length = sequence_length or self.sequence_length
        # keras-hub cuts a prompt without a word. One position more than there are tells whether it would.
        outputs = super().generate_preprocess(x, sequence_length=length + 1)
        cut = outputs["padding_mask"][..., -1]
        message = f"Expected a prompt of at most {length} tokens, its start token included."
        tf = graph_tensorflow()
        if tf is not None:
            tf.debugging.assert_equal(cut, False, message)
        elif np.any(ops.convert_to_numpy(cut)):
            tokens = self.tokenizer(x)
            longest = max(map(len, tokens)) if len(cut.shape) else len(tokens)
            raise ValueError(f"{message} Received: {longest + 1} tokens")
        return {name: value[..., :-1] for name, value in outputs.items()}


def _as_integers(mask):
    tf = graph_tensorflow()
    if tf is not None:
        return tf.cast(mask, "int32")
    return mask.astype("int32") if isinstance(mask, np.ndarray) else ops.cast(mask, "int32")

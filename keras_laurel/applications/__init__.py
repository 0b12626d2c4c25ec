"""Models built with LAuReL joins. Those that need keras_hub import it when they are first used."""

import importlib
import typing

from keras_laurel.applications.laurel_resnet50 import LaurelResNet50 as LaurelResNet50
from keras_laurel.applications.laurel_resnet50_layout import laurel_resnet50_layout_map as laurel_resnet50_layout_map

if typing.TYPE_CHECKING:
    from keras_laurel.applications.laurel_decoder import LaurelBytePairTokenizer as LaurelBytePairTokenizer
    from keras_laurel.applications.laurel_decoder import LaurelByteTokenizer as LaurelByteTokenizer
    from keras_laurel.applications.laurel_decoder import LaurelCausalLM as LaurelCausalLM
    from keras_laurel.applications.laurel_decoder import LaurelCausalLMPreprocessor as LaurelCausalLMPreprocessor
    from keras_laurel.applications.laurel_decoder import LaurelDecoderBackbone as LaurelDecoderBackbone
    from keras_laurel.applications.laurel_decoder import LaurelDecoderLM as LaurelDecoderLM
    from keras_laurel.applications.laurel_decoder import LaurelSentencePieceTokenizer as LaurelSentencePieceTokenizer

_ON_KERAS_HUB = (
    "LaurelBytePairTokenizer",
    "LaurelByteTokenizer",
    "LaurelCausalLM",
    "LaurelCausalLMPreprocessor",
    "LaurelDecoderBackbone",
    "LaurelDecoderLM",
    "LaurelSentencePieceTokenizer",
)


def __getattr__(name):
    if name not in _ON_KERAS_HUB:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module("keras_laurel.applications.laurel_decoder"), name)


def __dir__():
    return sorted([*globals(), *_ON_KERAS_HUB])

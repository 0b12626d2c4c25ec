"""A decoder LM with LAuReL joins, on keras_hub."""

from keras_laurel.applications.laurel_decoder import folding as folding
from keras_laurel.applications.laurel_decoder.backbone import LaurelDecoderBackbone as LaurelDecoderBackbone
from keras_laurel.applications.laurel_decoder.block import LaurelDecoderBlock as LaurelDecoderBlock
from keras_laurel.applications.laurel_decoder.causal_lm import LaurelCausalLM as LaurelCausalLM
from keras_laurel.applications.laurel_decoder.preprocessor import (
    LaurelCausalLMPreprocessor as LaurelCausalLMPreprocessor,
)
from keras_laurel.applications.laurel_decoder.sizes import LaurelDecoderLM as LaurelDecoderLM
from keras_laurel.applications.laurel_decoder.sizes import count_weights as count_weights
from keras_laurel.applications.laurel_decoder.tokenizers import LaurelBytePairTokenizer as LaurelBytePairTokenizer
from keras_laurel.applications.laurel_decoder.tokenizers import LaurelByteTokenizer as LaurelByteTokenizer
from keras_laurel.applications.laurel_decoder.tokenizers import (
    LaurelSentencePieceTokenizer as LaurelSentencePieceTokenizer,
)

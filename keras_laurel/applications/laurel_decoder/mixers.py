"""The sequence mixers that the decoder's blocks may have, by name."""

from keras_laurel.mixers import CausalAttention, GatedLinearAttention, Hyena, LinearAttention, Mamba, MultiHeadHyena

MIXERS = (
    "attention",
    "sliding_attention",
    "linear_attention",
    "gated_linear_attention",
    "mamba",
    "hyena",
    "multi_head_hyena",
)


def make_mixer(word, backbone, wavelength, **kwargs):
    """Makes a new mixer.

    Args:
        word: One of `MIXERS`.
        backbone: Dictionary of the arguments of `LaurelDecoderBackbone` that mixers go by.
        wavelength: That of rotary positions, or `None`.
        **kwargs: Initializers and `dtype`.
    """
    heads, width = backbone["num_query_heads"], backbone["head_dim"]
    length = backbone["max_sequence_length"]
    makers = {
        "attention": lambda **own: CausalAttention(heads, backbone["num_key_value_heads"], width, wavelength, **own),
        "sliding_attention": lambda **own: CausalAttention(
            heads, backbone["num_key_value_heads"], width, wavelength, window=backbone["window"], **own
        ),
        "linear_attention": lambda **own: LinearAttention(heads, width, **own),
        "gated_linear_attention": lambda **own: GatedLinearAttention(heads, width, **own),
        "mamba": Mamba,
        "hyena": lambda **own: Hyena(length, **own),
        "multi_head_hyena": lambda **own: MultiHeadHyena(heads, length, **own),
    }
    return makers[word](name=word, **kwargs)

"""The layers that the decoder's blocks may have, by name."""

from keras_laurel.mixers import (
    MLP,
    CausalAttention,
    GatedLinearAttention,
    Hyena,
    HyenaExperts,
    LinearAttention,
    Mamba,
    MixtureOfExperts,
    MultiHeadHyena,
    SwiGLU,
)

MIXERS = (
    "attention",
    "sliding_attention",
    "linear_attention",
    "gated_linear_attention",
    "mamba",
    "hyena",
    "multi_head_hyena",
    "hyena_experts",
)
FEEDFORWARDS = ("swiglu", "mlp", "moe", "none")
NUM_EXPERTS = 8


def blocks_of(words, feedforward):
    """Returns the pairs of a mixer's word and a feed-forward layer's that are the blocks of a design.

    Args:
        words: Word, or sequence of words: of `MIXERS`, and of `FEEDFORWARDS`, each of which belongs to the mixer
            before it. Hyphens stand for underscores.
        feedforward: Word of the feed-forward layer of each mixer, where `words` are mixers alone.

    Raises:
        ValueError: If a word is unknown, or there is no mixer, or none for a feed-forward layer.

    Example:
    >>> from keras_laurel.applications.laurel_decoder.mixers import blocks_of
    >>> blocks_of(("mamba", "mamba", "attention", "swiglu"), "mlp")
    [('mamba', 'none'), ('mamba', 'none'), ('attention', 'swiglu')]
    >>> blocks_of(("mamba", "attention"), "mlp"), blocks_of(("mamba", "none"), "mlp")
    ([('mamba', 'mlp'), ('attention', 'mlp')], [('mamba', 'none')])
    """
    words = [word.replace("-", "_") for word in ([words] if isinstance(words, str) else words)]
    known = (*MIXERS, *FEEDFORWARDS)
    for word in words:
        if word not in known:
            raise ValueError(f"Expected `mixers` to be of {known}. Received: mixers={word!r}")
    if not set(words) & set(MIXERS):
        raise ValueError(f"Expected a mixer among `mixers`, a word or a sequence of words. Received: mixers={words}")
    if set(words) <= set(MIXERS):
        return [(word, feedforward) for word in words]
    blocks = []
    for before, word in zip(["", *words], words):
        if word in MIXERS:
            blocks.append((word, "none"))
        elif before not in MIXERS:
            raise ValueError(f"Expected each feed-forward layer after a mixer. Received: mixers={words}")
        else:
            blocks[-1] = (before, word)
    return blocks


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
        "hyena_experts": lambda **own: HyenaExperts(heads, width or backbone["hidden_dim"] // heads, length, **own),
    }
    return makers[word](name=word, **kwargs)


def make_feedforward(word, intermediate_dim, **kwargs):
    """Makes a new feed-forward layer, or returns `None` for `"none"`.

    Args:
        word: One of `FEEDFORWARDS`.
        intermediate_dim: Positive integer, the inner width, of all experts together.
        **kwargs: Initializers and `dtype`.

    Raises:
        ValueError: If experts do not divide the inner width.
    """
    if word == "none":
        return None
    if word == "moe":
        if intermediate_dim % NUM_EXPERTS:
            raise ValueError(
                f"Expected `intermediate_dim` to be a multiple of {NUM_EXPERTS}, the experts. "
                f"Received: intermediate_dim={intermediate_dim}"
            )
        return MixtureOfExperts(NUM_EXPERTS, intermediate_dim // NUM_EXPERTS, name="feedforward", **kwargs)
    return {"swiglu": SwiGLU, "mlp": MLP}[word](intermediate_dim, name="feedforward", **kwargs)

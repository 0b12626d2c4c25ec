"""Architectures by name: sequences of mixers, each between a norm and a join."""

from applications.errors import UserError
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

DIM = 128

# Functions of the length of the inputs and of initializers. As published: 16 heads of 8 channels, gates of width 352,
# and states that make 4,096 floats of a model (without those of short convolutions); but attention's grows, and linear
# attention's is half as large.
MIXERS = {
    "attention": lambda length, **kwargs: CausalAttention(16, use_bias=True, **kwargs),
    "sliding-attention": lambda length, **kwargs: CausalAttention(16, use_bias=True, window=33, **kwargs),
    "linear-attention": lambda length, **kwargs: LinearAttention(16, **kwargs),
    "gated-linear-attention": lambda length, **kwargs: GatedLinearAttention(8, **kwargs),
    "mamba": lambda length, **kwargs: Mamba(4, **kwargs),
    "hyena": lambda length, **kwargs: Hyena(length, expansion=4, projection_tiles=4, **kwargs),
    "multi-head-hyena": lambda length, **kwargs: MultiHeadHyena(16, length, **kwargs),
    "hyena-experts": lambda length, **kwargs: HyenaExperts(8, 16, length, routing="leaky", **kwargs),
    "swiglu": lambda length, **kwargs: SwiGLU(352, **kwargs),
    "swiglu-wide": lambda length, **kwargs: SwiGLU(368, **kwargs),
    "mlp": lambda length, **kwargs: MLP(4 * DIM, **kwargs),
    "moe": lambda length, **kwargs: MixtureOfExperts(8, 16, routing="leaky", mix_experts=True, **kwargs),
}

# Two blocks each.
ARCHITECTURES = {
    "transformer": ("attention", "swiglu") * 2,
    "transformer-wide": ("attention", "swiglu-wide") * 2,
    "linear-attention": ("linear-attention", "swiglu") * 2,
    "gated-linear-attention": ("gated-linear-attention", "swiglu") * 2,
    "mamba": ("mamba",) * 4,
    "hyena": ("hyena", "swiglu") * 2,
    "multi-head-hyena": ("multi-head-hyena", "swiglu") * 2,
    "striped-gated-linear-attention": ("gated-linear-attention", "swiglu", "attention", "swiglu"),
    "striped-mamba": ("mamba", "mamba", "attention", "swiglu"),
    "striped-hyena": ("hyena", "swiglu", "attention", "swiglu"),
    "striped-multi-head-hyena": ("multi-head-hyena", "swiglu", "attention", "swiglu"),
    "striped-hyena-moe": ("hyena", "moe", "attention", "moe"),
    "striped-hyena-experts-moe": ("hyena-experts", "moe", "attention", "moe"),
}

# What has the weights of another architecture with low-rank joins of rank 12, and no joins of that kind.
CONTROLS = {"transformer-wide": "transformer"}


def mixers_of(architecture):
    """Returns the names of the mixers of an architecture: a name above, or mixers joined by "-then-".

    Raises:
        UserError: If there is none of the name.

    Example:
    >>> mixers_of("mamba-then-swiglu")
    ('mamba', 'swiglu')
    """
    if architecture in ARCHITECTURES:
        return ARCHITECTURES[architecture]
    names = tuple(architecture.split("-then-"))
    if not all(name in MIXERS for name in names):
        raise UserError(
            f"unknown architecture {architecture!r}; known: {', '.join(ARCHITECTURES)}; or mixers with -then- between "
            f"them: {', '.join(MIXERS)}"
        )
    return names


def make_mixer(name, length, initializer, index):
    """Returns a new mixer, the model's `index`-th, whose kernels `initializer` draws; see `MIXERS`."""
    return MIXERS[name](length, kernel_initializer=initializer, name=f"{name.replace('-', '_')}_{index}")

"""Architectures by name: sequences of mixers, each between a norm and a join."""

from applications.errors import UserError
from keras_laurel.mixers import MLP, CausalAttention, GatedLinearAttention, LinearAttention, Mamba, SwiGLU

DIM = 128

# As published: 16 heads of 8 channels, gates of width 352 and states that make 4,096 floats of a model, but for
# attention, whose state grows, and linear attention's, which is half as large.
MIXERS = {
    "attention": lambda **kwargs: CausalAttention(16, use_bias=True, **kwargs),
    "sliding-attention": lambda **kwargs: CausalAttention(16, use_bias=True, window=33, **kwargs),
    "linear-attention": lambda **kwargs: LinearAttention(16, **kwargs),
    "gated-linear-attention": lambda **kwargs: GatedLinearAttention(8, **kwargs),
    "mamba": lambda **kwargs: Mamba(4, **kwargs),
    "swiglu": lambda **kwargs: SwiGLU(352, **kwargs),
    "swiglu-wide": lambda **kwargs: SwiGLU(368, **kwargs),
    "mlp": lambda **kwargs: MLP(4 * DIM, **kwargs),
}

# Two blocks each. `transformer-wide` has the weights of `transformer` with low-rank joins of rank 12.
ARCHITECTURES = {
    "transformer": ("attention", "swiglu") * 2,
    "transformer-wide": ("attention", "swiglu-wide") * 2,
    "linear-attention": ("linear-attention", "swiglu") * 2,
    "gated-linear-attention": ("gated-linear-attention", "swiglu") * 2,
    "mamba": ("mamba",) * 4,
    "striped-gated-linear-attention": ("gated-linear-attention", "swiglu", "attention", "swiglu"),
    "striped-mamba": ("mamba", "mamba", "attention", "swiglu"),
}


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


def make_mixer(name, initializer, index):
    """Returns a new mixer, the model's `index`-th, whose kernels `initializer` draws; see `MIXERS`."""
    return MIXERS[name](kernel_initializer=initializer, name=f"{name.replace('-', '_')}_{index}")

"""A small decoder language model from Keras layers and the joins of keras_laurel."""

import keras
from keras import layers, ops

from keras_laurel import History, residual


def decoder_lm(
    vocabulary_size, context, kind="add", *, num_blocks=4, dim=128, num_heads=4, rank=16, num_activations=3, seed=0
):
    """Builds a pre-norm decoder whose two joins a block are of `kind`.

    All layers but the joins are initialized from `seed` and their place alone, so that models which differ in `kind`
    start from the same weights.

    Args:
        vocabulary_size: Number of tokens.
        context: Length of the longest input.
        kind: Word or callable for `keras_laurel.residual`.
        num_blocks: Number of blocks of attention and MLP.
        dim: Width of the residual stream.
        num_heads: Number of attention heads.
        rank: Rank of the low-rank maps.
        num_activations: Number of states that PA weighs.
        seed: Integer.

    Returns:
        A `keras.Model` from integer tokens `(batch, length)` to logits `(batch, length, vocabulary_size)`.
    """
    seeds = iter(range(1000 * seed, 1000 * (seed + 1)))

    def normal(scale=1.0):
        return keras.initializers.RandomNormal(stddev=0.02 * scale, seed=next(seeds))

    def join(x, fx):
        layer = residual(
            kind,
            rank=rank,
            num_activations=num_activations,
            down_initializer=keras.initializers.GlorotUniform(seed=next(seeds)),
            name=f"join_{len(history.states)}",
        )
        return history.join(layer, x, fx)

    tokens = keras.Input((None,), dtype="int32", name="tokens")
    positions = ops.cumsum(ops.ones_like(tokens), axis=-1) - 1
    x = layers.Embedding(vocabulary_size, dim, normal(), name="token_embedding")(tokens)
    x = x + layers.Embedding(context, dim, normal(), name="position_embedding")(positions)
    history = History()
    branch_scale = (2 * num_blocks) ** -0.5
    for _ in range(num_blocks):
        attention = layers.MultiHeadAttention(num_heads, dim // num_heads, kernel_initializer=normal(), use_bias=False)
        h = layers.RMSNormalization()(x)
        x = join(x, attention(h, h, use_causal_mask=True))
        h = layers.RMSNormalization()(x)
        h = layers.Dense(4 * dim, "gelu", kernel_initializer=normal())(h)
        x = join(x, layers.Dense(dim, kernel_initializer=normal(branch_scale))(h))
    logits = layers.Dense(vocabulary_size, kernel_initializer=normal(), name="logits")(layers.RMSNormalization()(x))
    return keras.Model(tokens, logits)

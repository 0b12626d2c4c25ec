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

    def new(layer, *args, **kwargs):
        keras.utils.set_random_seed(next(seeds))
        return layer(*args, **kwargs)

    def join(x, fx):
        name = f"join_{len(history.states)}"
        return history.join(residual(kind, rank=rank, num_activations=num_activations, name=name), x, fx)

    tokens = keras.Input((None,), dtype="int32", name="tokens")
    positions = ops.cumsum(ops.ones_like(tokens), axis=-1) - 1
    x = new(layers.Embedding, vocabulary_size, dim)(tokens) + new(layers.Embedding, context, dim)(positions)
    history = History()
    for _ in range(num_blocks):
        h = layers.RMSNormalization()(x)
        x = join(
            x, new(layers.MultiHeadAttention, num_heads, dim // num_heads, use_bias=False)(h, h, use_causal_mask=True)
        )
        h = layers.RMSNormalization()(x)
        h = new(layers.Dense, 4 * dim, "gelu")(h)
        x = join(x, new(layers.Dense, dim)(h))
    x = layers.RMSNormalization()(x)
    return keras.Model(tokens, new(layers.Dense, vocabulary_size)(x))

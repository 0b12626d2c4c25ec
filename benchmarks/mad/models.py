"""The two models of the benchmark: a language model, and the auto-encoder of the compression task."""

import keras
import numpy as np
from keras import layers, ops

from applications.joins import join_arguments
from benchmarks.mad.architectures import DIM, make_mixer, mixers_of
from keras_laurel import History, residual

NORM_EPSILON = 1e-5
TORCH_LINEAR = {"scale": 1 / 3, "mode": "fan_in", "distribution": "uniform"}  # PyTorch's initial kernels
SMALL_NORMAL = 0.02  # standard deviation of embeddings, and of all kernels of the auto-encoder


def build(task, architecture, join="add", seed=0, rank=12, num_activations=3):
    """Returns the model of a task.

    Models of a seed start from equal weights, whatever their joins: each layer draws from the seed and its place.

    Args:
        task: A `Task`.
        architecture: See `architectures.mixers_of`.
        join: See `join_arguments`. The decoder of the auto-encoder has no joins.
        seed: Integer.
        rank: Rank of the low-rank maps, unless the join names another. With 12 they have the weights of `swiglu-wide`.
        num_activations: Number of states that PA weighs, unless the join names another.

    Returns:
        A `keras.Model` of int32 tokens `(batch, length)` to logits `(batch, length, vocab_size)`.

    Raises:
        UserError: If there is no such architecture or join.
    """
    kind, arguments = join_arguments(join, rank=rank, num_activations=num_activations)
    places = iter(range(1000 * seed, 1000 * (seed + 1)))

    def draw_from_here():
        keras.utils.set_random_seed(next(places))

    is_encoder = task.backbone == "auto-encoder"
    small = keras.initializers.RandomNormal(stddev=SMALL_NORMAL)
    initializer = small if is_encoder else keras.initializers.VarianceScaling(**TORCH_LINEAR)

    def norm(x, name):
        return layers.RMSNormalization(epsilon=NORM_EPSILON, name=name)(x)

    def dense(x, units, name):
        draw_from_here()
        return layers.Dense(units, kernel_initializer=initializer.clone(), name=name)(x)

    tokens = keras.Input((task.input_length,), dtype="int32", name="tokens")
    draw_from_here()
    x = layers.Embedding(task.vocab_size, DIM, embeddings_initializer=small.clone(), name="token_embedding")(tokens)
    history = History()
    for index, name in enumerate(mixers_of(architecture)):
        draw_from_here()
        fx = make_mixer(name, task.input_length, initializer.clone(), index)(norm(x, f"norm_{index}"))
        x = history.join(residual(kind, name=f"join_{index}", **arguments), x, fx)
    if is_encoder:
        x = ops.expand_dims(x[:, -1], 1) + positions(task.input_length, DIM)
        for index in range(2):
            x = ops.gelu(dense(norm(x, f"decoder_norm_{index}"), DIM, f"decoder_{index}"), approximate=False)
    logits = dense(norm(x, "output_norm"), task.vocab_size, "output")
    return keras.Model(tokens, logits)


def positions(length, dim):
    """Returns the table of sines and cosines of positions, a float32 array of shape `(length, dim)`.

    Row p is `[sin(p f), cos(p f)]` with `dim / 2` frequencies f from 1 to 1 / 10,000, in even steps of their logarithm.
    """
    frequencies = np.exp(-np.log(10_000) * np.arange(dim // 2) / (dim // 2 - 1))
    angles = np.arange(length)[:, None] * frequencies
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=-1).astype("float32")

"""Learned positions, spread over the batch so that XLA lays out the states as they are computed with."""

import keras
import keras_hub
from keras import ops


class LearnedPositions(keras_hub.layers.PositionEmbedding):
    """`keras_hub.layers.PositionEmbedding` whose gradient is a matmul in half precision under JAX.

    Plainly it is a sum over the batch. XLA for GPUs then lays out the states of the whole network with the batch
    innermost, and each norm and each join transposes them (benchmarks/README.md has what that costs).
    """

    def call(self, inputs, start_index=0, **kwargs):
        positions = super().call(inputs[:1], start_index=start_index, **kwargs)
        if keras.backend.backend() != "jax" or positions.dtype.itemsize > 2:
            return ops.broadcast_to(positions, ops.shape(inputs))
        # Times ones, which is exact. In float32 a matmul would not be, on all devices.
        ones = ops.ones((inputs.shape[0], 1), positions.dtype)
        return ops.reshape(ops.matmul(ones, ops.reshape(positions, (1, -1))), inputs.shape)

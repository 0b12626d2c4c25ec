"""How experts are weighed: from a router's scores."""

import keras
from keras import ops

ROUTINGS = ("top_k", "leaky")


def expert_weights(scores, num_active, routing):
    """Returns the weights of the experts, which sum to one.

    Args:
        scores: Float tensor of shape `(..., num_experts)`.
        num_active: Integer, how many experts are active; where scores are equal, more.
        routing: `"top_k"` gives the others no weight. `"leaky"` takes their scores for zero, as the benchmark MAD's
            code does, so that every expert has some.

    Returns:
        Tensor of the shape of `scores`.

    Example:
    >>> from keras_laurel.mixers.routing import expert_weights
    >>> weights = expert_weights(ops.array([[1.0, 3.0, 2.0]]), 1, "top_k")
    >>> ops.convert_to_numpy(weights).tolist()
    [[0.0, 1.0, 0.0]]
    """
    least = ops.top_k(scores, num_active)[0][..., -1:]
    others = ops.full_like(scores, 0.0 if routing == "leaky" else float("-inf"))
    return ops.softmax(ops.where(scores >= least, scores, others), axis=-1)


def check_routing(num_experts, num_active, routing):
    """Refuses a routing that there is not, or a number of experts that it cannot have.

    Raises:
        ValueError: If it is out of range.
    """
    if routing not in ROUTINGS:
        raise ValueError(f"Expected `routing` to be 'top_k' or 'leaky'. Received: routing={routing!r}")
    if not 1 <= num_active <= num_experts:
        raise ValueError(
            "Expected `num_active` to be from 1 to `num_experts`. "
            f"Received: num_active={num_active}, num_experts={num_experts}"
        )


def built_router(layer, input_shape):
    """Returns the built projection of `layer` that scores its experts."""
    router = keras.layers.Dense(
        layer.num_experts, kernel_initializer=layer.kernel_initializer.clone(), name="router", dtype=layer.dtype_policy
    )
    router.build(input_shape)
    return router

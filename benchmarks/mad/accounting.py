"""What a model costs: state and operations, by the formulas of the benchmark."""

import keras

from keras_laurel.monitoring import laurel_joins


def state_size(model, length):
    """Returns how many floats the mixers of a model keep of `length` positions for those that follow."""
    return sum(layer.state_size(length) for layer in model.layers if hasattr(layer, "state_size"))


def flops(model, length):
    """Returns the operations of the forward pass of a sequence; a multiplication and an addition count as two.

    Those of mixers and hyper-connections by their own formulas, of dense layers, and of LAuReL's low-rank maps. Norms,
    embeddings and what other joins add and scale are left out. A step of training counts three times as many.
    """
    total = sum(layer.flops(length) for layer in model.layers if hasattr(layer, "flops"))
    kernels = [layer.kernel for layer in model.layers if isinstance(layer, keras.layers.Dense)]
    for join in laurel_joins(model).values():
        kernels += [weight for weight in join.trainable_weights if len(weight.shape) == 2]
    return total + sum(2 * length * kernel.shape[0] * kernel.shape[1] for kernel in kernels)

"""A training loop of your own in plain JAX: a pure step of `stateless_call` and `stateless_apply`, compiled.

    python examples/training_loop_jax.py

Say `training=True`: a join then uses its own gradient, which keeps less in memory than plain differentiation. Prints
the loss going down, the accuracy on held-out digits, and alpha and beta of each join.
"""

import os

os.environ["KERAS_BACKEND"] = "jax"

import jax
import keras
import numpy as np
from keras import layers
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import keras_laurel


def mlp(residual, num_blocks=3, dim=64):
    """Returns a residual network from 64 pixels to the logits of ten digits."""
    inputs = keras.Input((64,))
    x = layers.Dense(dim)(inputs)
    history = keras_laurel.History()
    for i in range(num_blocks):
        fx = layers.Dense(dim, "relu")(layers.BatchNormalization(momentum=0.9)(x))
        x = history.join(keras_laurel.residual(residual, name=f"join_{i}"), x, layers.Dense(dim)(fx))
    return keras.Model(inputs, layers.Dense(10)(x))


def make_train_step(model, optimizer):
    """Returns a compiled function of the state and a batch that returns the loss and the next state."""
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    def compute_loss(trainable, non_trainable, x, y):
        logits, non_trainable = model.stateless_call(trainable, non_trainable, x, training=True)
        return loss(y, logits), non_trainable

    @jax.jit
    def train_step(state, x, y):
        trainable, non_trainable, optimizer_variables = state
        gradient = jax.value_and_grad(compute_loss, has_aux=True)
        (value, non_trainable), grads = gradient(trainable, non_trainable, x, y)
        trainable, optimizer_variables = optimizer.stateless_apply(optimizer_variables, grads, trainable)
        return value, (trainable, non_trainable, optimizer_variables)

    return train_step


def main():
    """Trains the network and checks that it has learned."""
    keras.utils.set_random_seed(0)
    images, labels = load_digits(return_X_y=True)
    x, x_test, y, y_test = train_test_split(images.astype("float32") / 16, labels, test_size=360, random_state=0)

    model = mlp("rw+pa")
    optimizer = keras.optimizers.AdamW(3e-3, weight_decay=0.01)
    keras_laurel.exclude_from_weight_decay(optimizer, model)
    optimizer.build(model.trainable_variables)
    train_step = make_train_step(model, optimizer)

    variables = model.trainable_variables, model.non_trainable_variables, optimizer.variables
    state = tuple([variable.value for variable in group] for group in variables)
    for epoch in range(5):
        order = np.random.permutation(len(x))
        losses = []
        for batch in np.split(order[: len(x) // 64 * 64], len(x) // 64):
            value, state = train_step(state, x[batch], y[batch])
            losses.append(value)
        print(f"epoch {epoch}: loss {np.mean(losses):.3f}")

    for group, values in zip(variables, state):  # back into the model
        for variable, value in zip(group, values):
            variable.assign(value)
    accuracy = np.mean(np.argmax(model(x_test), -1) == y_test)
    print(f"held-out accuracy: {accuracy:.3f}")
    monitor = keras_laurel.LaurelMonitor()  # the callback of `fit`, by hand
    monitor.set_model(model)
    monitor.on_epoch_end(epoch=4)
    for name, values in monitor.values[-1].items():
        print(f"{name}: alpha {values['alpha']:.3f} beta {values['beta']:.3f}")
    assert accuracy > 0.9, "the network has not learned"


if __name__ == "__main__":
    main()

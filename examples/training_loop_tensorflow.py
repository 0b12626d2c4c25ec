"""A training loop of your own in TensorFlow: a step of `GradientTape`, compiled.

    python examples/training_loop_tensorflow.py

Prints the loss going down, the accuracy on held-out digits, and alpha and beta of each join.
"""

import os

os.environ["KERAS_BACKEND"] = "tensorflow"

import keras
import numpy as np
import tensorflow as tf
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
    """Returns a compiled function of a batch that updates the model and returns the loss."""
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    @tf.function(jit_compile=True)
    def train_step(x, y):
        with tf.GradientTape() as tape:
            value = loss(y, model(x, training=True))
        variables = model.trainable_variables
        optimizer.apply(tape.gradient(value, [variable.value for variable in variables]), variables)
        return value

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

    batches = tf.data.Dataset.from_tensor_slices((x, y)).shuffle(len(x), seed=0).batch(64, drop_remainder=True)
    for epoch in range(5):
        losses = [train_step(*batch).numpy() for batch in batches]
        print(f"epoch {epoch}: loss {np.mean(losses):.3f}")

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

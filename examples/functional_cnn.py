"""LAuReL in a functional CNN: what changes is the line that joins.

    KERAS_BACKEND=jax python examples/functional_cnn.py

Trains a small residual network on scikit-learn's handwritten digits. Prints the accuracy on held-out digits and what
each join has learned: alpha, the weight of the branch, beta, that of the skip, and the size of the low-rank map.
"""

import keras
from keras import layers
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import keras_laurel


def cnn(residual, num_blocks=3, filters=16):
    """Returns a pre-activation residual network from 8x8 images to the logits of ten digits."""
    inputs = keras.Input((8, 8, 1))
    x = layers.Conv2D(filters, 3, padding="same")(inputs)
    history = keras_laurel.History()
    for i in range(num_blocks):
        fx = layers.ReLU()(layers.BatchNormalization(momentum=0.9)(x))  # few steps want a short average
        fx = layers.Conv2D(filters, 3, padding="same")(fx)
        x = history.join(keras_laurel.residual(residual, rank=4, name=f"join_{i}"), x, fx)  # was: x = x + fx
    x = layers.GlobalAveragePooling2D()(layers.ReLU()(layers.BatchNormalization(momentum=0.9)(x)))
    return keras.Model(inputs, layers.Dense(10)(x))


def main():
    """Trains the network and checks that it and its joins have learned."""
    keras.utils.set_random_seed(0)
    images, labels = load_digits(return_X_y=True)
    images = images.reshape(-1, 8, 8, 1).astype("float32") / 16
    x, x_test, y, y_test = train_test_split(images, labels, test_size=360, random_state=0)

    model = cnn("rw+lr")
    print(f"weights: {model.count_params()}, with plain joins {cnn('add').count_params()}")

    optimizer = keras.optimizers.AdamW(4e-3, weight_decay=0.01)
    keras_laurel.exclude_from_weight_decay(optimizer, model)  # decay would pull the joins back to the plain residual
    model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    monitor = keras_laurel.LaurelMonitor()
    history = model.fit(x, y, batch_size=64, epochs=6, verbose=0, callbacks=[monitor]).history

    accuracy = model.evaluate(x_test, y_test, batch_size=60, verbose=0, return_dict=True)["accuracy"]
    print(f"training loss: {history['loss'][0]:.3f} -> {history['loss'][-1]:.3f}")
    print(f"held-out accuracy: {accuracy:.3f}")
    for name, values in monitor.values[-1].items():
        print(f"{name}:", *(f"{key} {value:.3f}" for key, value in values.items()))
        assert values["alpha"] != 1, f"{name} has not learned"
    assert accuracy > 0.9, "the network has not learned"


if __name__ == "__main__":
    main()

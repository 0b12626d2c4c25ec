"""A vision transformer whose residual joins are LAuReL ones, two in each block.

    KERAS_BACKEND=jax python examples/vision_transformer.py
    KERAS_BACKEND=jax python examples/vision_transformer.py --residual add

The paper names vision transformers as its next step. This one is small, and reads scikit-learn's handwritten digits as
16 patches of 2x2. Prints the accuracy on held-out digits, and alpha, beta and gamma of each join over depth.
"""

import argparse

import keras
from keras import layers
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import keras_laurel


@keras.saving.register_keras_serializable("examples")
class PositionEmbedding(layers.Layer):
    """Adds a learned vector to each position."""

    def build(self, input_shape):
        self.positions = self.add_weight(name="positions", shape=input_shape[1:], initializer="random_normal")

    def call(self, x):
        return x + self.positions


def vision_transformer(residual, num_blocks=2, dim=32, num_heads=2, patch=2):
    """Returns a pre-norm vision transformer from 8x8 images to the logits of ten digits."""
    inputs = keras.Input((8, 8, 1))
    x = layers.Conv2D(dim, patch, strides=patch)(inputs)
    x = PositionEmbedding()(layers.Reshape((-1, dim))(x))
    history = keras_laurel.History()  # of the whole stack, so that previous activations reach over its blocks

    def join(x, fx, name):
        return history.join(keras_laurel.residual(residual, rank=4, num_activations=3, name=name), x, fx)

    for i in range(num_blocks):
        h = layers.LayerNormalization()(x)
        x = join(x, layers.MultiHeadAttention(num_heads, dim // num_heads)(h, h), f"block_{i}_attention")
        h = layers.Dense(2 * dim, "gelu")(layers.LayerNormalization()(x))
        x = join(x, layers.Dense(dim)(h), f"block_{i}_mlp")
    x = layers.GlobalAveragePooling1D()(layers.LayerNormalization()(x))
    return keras.Model(inputs, layers.Dense(10)(x))


def main():
    """Trains the transformer and checks that it has learned."""
    parser = argparse.ArgumentParser(description="A vision transformer with LAuReL joins on handwritten digits.")
    parser.add_argument("--residual", default="rw+pa", help='"add", "rw", "lr", "pa" or a sum such as "rw+lr+pa"')
    parser.add_argument("--epochs", type=int, default=10)
    args = parser.parse_args()
    keras.utils.set_random_seed(0)
    images, labels = load_digits(return_X_y=True)
    images = images.reshape(-1, 8, 8, 1).astype("float32") / 16
    x, x_test, y, y_test = train_test_split(images, labels, test_size=360, random_state=0)

    model = vision_transformer(args.residual)
    optimizer = keras.optimizers.AdamW(6e-3, weight_decay=0.05)
    keras_laurel.exclude_from_weight_decay(optimizer, model)
    model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    monitor = keras_laurel.LaurelMonitor()
    history = model.fit(x, y, batch_size=128, epochs=args.epochs, verbose=0, callbacks=[monitor]).history

    accuracy = model.evaluate(x_test, y_test, batch_size=60, verbose=0, return_dict=True)["accuracy"]
    print(f"{args.residual}: {model.count_params()} weights")
    print(f"training loss: {history['loss'][0]:.3f} -> {history['loss'][-1]:.3f}")
    print(f"held-out accuracy: {accuracy:.3f}")
    for name, values in monitor.values[-1].items():
        print(f"{name}:", *(f"{key} {value:.3f}" for key, value in values.items()))
    assert accuracy > 0.8, "the transformer has not learned"


if __name__ == "__main__":
    main()

"""A trained ResNet50 becomes a LAuReL one, and nothing but its LAuReL weights is fine-tuned.

    KERAS_BACKEND=jax python examples/retrofit_resnet50.py
    KERAS_BACKEND=jax python examples/retrofit_resnet50.py --weights imagenet --size 64

Without arguments nothing is downloaded, and the network is random. First a head is fitted to its features of
scikit-learn's handwritten digits. Then `laurelize` puts LAuReL joins in the place of its 16 adds, and `fit` trains them
with all else frozen. Prints the loss, which is the plain network's before and goes down, and what a join in each stage
has learned.
"""

import argparse

import keras
import numpy as np
from sklearn.datasets import load_digits

import keras_laurel


def digits(size, count):
    """Returns `count` digits as RGB images of `size` pixels, preprocessed for ResNet50, and their labels."""
    images, labels = load_digits(return_X_y=True)
    images = 255 / 16 * images[:count].reshape(-1, 8, 8, 1).repeat(size // 8, 1).repeat(size // 8, 2).repeat(3, 3)
    return keras.applications.resnet50.preprocess_input(images.astype("float32")), labels[:count]


def plain_classifier(weights, x, y, loss):
    """Returns the network as a user has it: trained before, with a head for the task."""
    base = keras.applications.ResNet50(weights=weights, include_top=False, pooling="avg", input_shape=x.shape[1:])
    features = base.predict(x, batch_size=16, verbose=0)
    head = keras.Sequential(
        [keras.Input(features.shape[1:]), keras.layers.LayerNormalization(), keras.layers.Dense(10)], name="head"
    )
    head.compile(keras.optimizers.Adam(1e-3), loss)
    head.fit(features, y, batch_size=16, epochs=5, verbose=0)
    print(f"loss of the plain network: {head.evaluate(features, y, batch_size=16, verbose=0):.4f}")
    return keras.Model(base.input, head(base.output))


def main():
    """Retrofits the network, fine-tunes it, and checks that only the joins have changed."""
    parser = argparse.ArgumentParser(description="Fine-tunes the LAuReL weights of a frozen ResNet50.")
    parser.add_argument("--weights", help='"imagenet" (downloaded) or the path of a weights file; default: random')
    parser.add_argument("--size", type=int, default=32, help="pixels of a side, a multiple of 8 and at least 32")
    parser.add_argument("--images", type=int, default=48)
    parser.add_argument("--epochs", type=int, default=2)
    args = parser.parse_args()
    keras.utils.set_random_seed(0)
    x, y = digits(args.size, args.images)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    classifier = plain_classifier(args.weights, x, y, loss)

    model = keras_laurel.laurelize(classifier, "rw+lr", rank=4, trainable="laurel")
    num_trained = sum(np.prod(weight.shape) for weight in model.trainable_weights)
    print(f"joins: {len(keras_laurel.find_joins(classifier).joins)}")
    print(f"weights: {model.count_params()}, trained {num_trained}")

    model.compile(keras.optimizers.Adam(1e-3), loss)
    before = model.evaluate(x, y, batch_size=16, verbose=0)
    frozen = [np.copy(keras.ops.convert_to_numpy(weight)) for weight in model.non_trainable_weights]
    monitor = keras_laurel.LaurelMonitor()
    model.fit(x, y, batch_size=16, epochs=args.epochs, verbose=0, callbacks=[monitor])
    after = model.evaluate(x, y, batch_size=16, verbose=0)
    print(f"loss of the retrofitted network: {before:.4f} -> {after:.4f}")
    for name, values in monitor.values[-1].items():
        if "block1" in name:  # the first of each stage
            print(f"{name}:", *(f"{key} {value:.3f}" for key, value in values.items()))

    for old, weight in zip(frozen, model.non_trainable_weights):
        np.testing.assert_array_equal(old, keras.ops.convert_to_numpy(weight), err_msg=weight.path)
    assert after < before, "the joins have not learned"


if __name__ == "__main__":
    main()

"""Trains a network with LAuReL residual weights, folds them away, and exports the plain network that is left.

    KERAS_BACKEND=jax python examples/fold_and_export.py

JAX and TensorFlow export a SavedModel (JAX by way of TensorFlow), PyTorch an ONNX file. Prints alpha and beta, that the
folded network has no weights of joins and the same outputs, and so has the exported file, which is run without Keras.
"""

import tempfile
from pathlib import Path

import keras
import numpy as np
from keras import layers
from sklearn.datasets import load_digits

import keras_laurel


def mlp(residual, num_blocks=3, dim=32):
    """Returns a pre-norm residual network from 64 pixels to the logits of ten digits."""
    inputs = keras.Input((64,))
    x = layers.Dense(dim)(inputs)
    for i in range(num_blocks):
        fx = layers.Dense(2 * dim, "relu")(layers.BatchNormalization(momentum=0.9)(x))
        x = keras_laurel.residual(residual, name=f"join_{i}")([x, layers.Dense(dim)(fx)])
    return keras.Model(inputs, layers.Dense(10)(layers.BatchNormalization(momentum=0.9)(x)))


def run_exported(model, folder, x):
    """Exports `model` in a format of its backend; returns what the exported file makes of `x`."""
    if keras.backend.backend() == "torch":
        import onnxruntime

        path = folder / "model.onnx"
        model.export(path, format="onnx", verbose=False)
        session = onnxruntime.InferenceSession(path)
        return session.run(None, {session.get_inputs()[0].name: x})[0]
    import tensorflow as tf

    path = folder / "saved_model"
    model.export(path, verbose=False)
    exported = tf.saved_model.load(path)
    return exported.serve(x).numpy()


def main():
    """Trains, folds, exports, and checks that the outputs stay the same."""
    keras.utils.set_random_seed(0)
    images, labels = load_digits(return_X_y=True)
    x = images.astype("float32") / 16

    model = mlp("rw")
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(1e-2), loss)
    monitor = keras_laurel.LaurelMonitor()
    losses = model.fit(x, labels, batch_size=64, epochs=3, verbose=0, callbacks=[monitor]).history["loss"]
    print(f"loss: {losses[0]:.3f} -> {losses[-1]:.3f}")
    for name, values in monitor.values[-1].items():
        print(f"{name}: alpha {values['alpha']:.3f} beta {values['beta']:.3f}")

    folded = keras_laurel.fold(model)
    print(f"weights: {model.count_params()}, folded {folded.count_params()}, plain {mlp('add').count_params()}")
    expected = model.predict(x[:64], verbose=0)
    outputs = folded.predict(x[:64], verbose=0)
    print(f"folded: largest difference of outputs {np.abs(outputs - expected).max():.1e}")
    np.testing.assert_allclose(outputs, expected, rtol=1e-4, atol=1e-4)

    with tempfile.TemporaryDirectory() as folder:
        outputs = run_exported(folded, Path(folder), x[:64])
    print(f"exported: largest difference of outputs {np.abs(outputs - expected).max():.1e}")
    np.testing.assert_allclose(outputs, expected, rtol=1e-4, atol=1e-4)


if __name__ == "__main__":
    main()

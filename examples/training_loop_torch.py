"""A training loop of your own in PyTorch: autograd and `torch.optim`.

    python examples/training_loop_torch.py

A Keras model is a `torch.nn.Module` under PyTorch. The LAuReL weights get a group without weight decay, which would
pull the joins back to the plain residual. Prints the loss going down, the accuracy on held-out digits, and alpha and
beta of each join.
"""

import os

os.environ["KERAS_BACKEND"] = "torch"

import keras
import numpy as np
import torch
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


def parameter_groups(model, weight_decay):
    """Returns the parameters of `model` in two groups, those of its joins without weight decay."""
    own = {id(weight) for weight in keras_laurel.laurel_weights(model)}
    groups: dict = {True: [], False: []}
    for weight in model.trainable_weights:
        groups[id(weight) in own].append(weight.value)
    return [{"params": groups[False], "weight_decay": weight_decay}, {"params": groups[True], "weight_decay": 0.0}]


def main():
    """Trains the network and checks that it has learned."""
    keras.utils.set_random_seed(0)
    images, labels = load_digits(return_X_y=True)
    x, x_test, y, y_test = train_test_split(images.astype("float32") / 16, labels, test_size=360, random_state=0)

    model = mlp("rw+pa")
    optimizer = torch.optim.AdamW(parameter_groups(model, weight_decay=0.01), lr=3e-3)
    data = torch.utils.data.TensorDataset(torch.from_numpy(x), torch.from_numpy(y))
    batches = torch.utils.data.DataLoader(data, batch_size=64, shuffle=True, drop_last=True)
    for epoch in range(5):
        losses = []
        for images, labels in batches:
            loss = torch.nn.functional.cross_entropy(model(images, training=True), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        print(f"epoch {epoch}: loss {np.mean(losses):.3f}")

    with torch.no_grad():
        accuracy = np.mean(model(x_test).argmax(-1).cpu().numpy() == y_test)
    print(f"held-out accuracy: {accuracy:.3f}")
    monitor = keras_laurel.LaurelMonitor()  # the callback of `fit`, by hand
    monitor.set_model(model)
    monitor.on_epoch_end(epoch=4)
    for name, values in monitor.values[-1].items():
        print(f"{name}: alpha {values['alpha']:.3f} beta {values['beta']:.3f}")
    assert accuracy > 0.9, "the network has not learned"


if __name__ == "__main__":
    main()

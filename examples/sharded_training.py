"""One script that trains over several devices on every backend.

    KERAS_BACKEND=jax python examples/sharded_training.py
    KERAS_BACKEND=jax python examples/sharded_training.py --kind model:2x2
    KERAS_BACKEND=tensorflow python examples/sharded_training.py
    KERAS_BACKEND=torch python -m torch.distributed.run --standalone --nproc-per-node=2 examples/sharded_training.py

`data` gives each device a part of every batch, `model:2x2` (JAX) also divides the weights. On a machine without
accelerators JAX and TensorFlow make four devices of the CPU. Prints how the training is spread and the loss going down;
`--kind none` trains on one device and prints the same losses.
"""

import argparse
import os

os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=4"

import keras
import numpy as np

from keras_laurel import datasets
from keras_laurel.applications import LaurelCausalLM, LaurelDecoderBackbone
from keras_laurel.distribution import distribute

LENGTH, BATCH, STEPS = 32, 16, 8


def split_cpu():
    """Makes four devices of the CPU under TensorFlow; JAX has read XLA_FLAGS, PyTorch has processes."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        [cpu] = tf.config.list_physical_devices("CPU")
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 4)


def read(index, count):
    """Returns part `index` of `count` of each batch: the tokens of a text, and those that follow."""
    tokens = np.frombuffer(datasets.tinyshakespeare.load_text().encode(), "uint8").astype("int32")
    x = tokens[: STEPS * BATCH * LENGTH].reshape(STEPS, count, -1, LENGTH)[:, index].reshape(-1, LENGTH)
    y = tokens[1 : STEPS * BATCH * LENGTH + 1].reshape(STEPS, count, -1, LENGTH)[:, index].reshape(-1, LENGTH)
    return x, y


def main():
    """Trains a small language model and checks that it learns."""
    parser = argparse.ArgumentParser(description="Trains a LAuReL language model over several devices.")
    parser.add_argument("--kind", default="data", help='"none", "data", or under JAX such as "model:2x2"')
    args = parser.parse_args()
    split_cpu()
    distribution = distribute(args.kind, layout_map=LaurelDecoderBackbone.get_layout_map)  # before a model is made
    distribution.check_batch(BATCH)
    keras.utils.set_random_seed(0)

    with distribution.scope():
        backbone = LaurelDecoderBackbone(
            vocabulary_size=256,
            num_layers=2,
            num_query_heads=2,
            hidden_dim=32,
            intermediate_dim=64,
            residual="rw+lr",
            rank=4,
        )
        model = LaurelCausalLM(backbone)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.Adam(1e-2), loss, weighted_metrics=[])
    distribution.prepare(model)  # refuses what would be trained otherwise than it looks

    index, count = distribution.data_shard  # under PyTorch, and with several machines, a process reads its part
    x, y = read(index, count)
    losses = model.fit(x, y, batch_size=BATCH // count, epochs=3, shuffle=False, verbose=0).history["loss"]
    if distribution.is_chief:
        print(f"replicas: {distribution.num_replicas}; devices: {distribution.num_devices}")
        print("loss:", *(f"{value:.4f}" for value in losses))
    assert losses[-1] < losses[0], "the model has not learned"


if __name__ == "__main__":
    main()

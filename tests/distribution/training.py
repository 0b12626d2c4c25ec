"""One training of a tiny model, alike on one device and on several: the tests compare what comes out.

Run as a program, it trains over the devices that it finds and writes what comes out of each training as JSON:

    python training.py result.json '[["decoder", "rw", {}], ...]'
"""

import json
import os
import sys

VARIANTS = ("add", "rw", "lr", "pa", "rw+lr", "rw+lr+pa")
EXAMPLES, BATCH = 8, 4


def decoder(variant):
    from keras_laurel.applications import LaurelDecoderBackbone

    return LaurelDecoderBackbone(
        vocabulary_size=11,
        num_layers=2,
        num_query_heads=2,
        num_key_value_heads=1,
        hidden_dim=8,
        intermediate_dim=6,
        rank=2,
        residual=variant,
        max_sequence_length=6,
    )


def resnet(variant):
    from keras_laurel.applications import LaurelResNet50

    return LaurelResNet50(
        weights=None, input_shape=(32, 32, 3), classes=3, residual=variant, rank=2, num_blocks=(2,), filters=(2,)
    )


def normed(_):
    """A network whose input is batch-normalized: the mean of the parts' means is the mean of the whole batch."""
    import keras

    return keras.Sequential([keras.Input((4,)), keras.layers.BatchNormalization(), keras.layers.Dense(1)])


def linear(_):
    import keras

    return keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])


def strings(_):
    from keras_laurel.applications import (
        LaurelByteTokenizer,
        LaurelCausalLM,
        LaurelCausalLMPreprocessor,
        LaurelDecoderBackbone,
    )

    backbone = LaurelDecoderBackbone(256, 1, 2, hidden_dim=4, intermediate_dim=4, residual="rw")
    return LaurelCausalLM(backbone, LaurelCausalLMPreprocessor(LaurelByteTokenizer(), sequence_length=5))


BUILDERS = {
    "decoder": decoder,
    "strings": strings,
    "resnet": resnet,
    "normed": normed,
    "linear": linear,
    "overflow": linear,
}


def data(name):
    import numpy as np

    rng = np.random.default_rng(0)
    if name == "decoder":
        tokens = rng.integers(11, size=(EXAMPLES, 6)).astype("int32")
        x = {"token_ids": tokens, "padding_mask": np.ones_like(tokens)}
        return x, rng.normal(size=(EXAMPLES, 6, 8)).astype("float32")
    if name == "strings":
        return np.array(["a" * length for length in range(EXAMPLES)]), None  # some shorter, some longer than 5 tokens
    if name == "resnet":
        return rng.normal(size=(EXAMPLES, 32, 32, 3)).astype("float32"), rng.integers(3, size=EXAMPLES)
    x, y = rng.normal(size=(EXAMPLES, 4)).astype("float32"), rng.normal(size=(EXAMPLES, 1)).astype("float32")
    if name == "overflow":
        x[BATCH - 1] = 1e30  # in the last part of the first batch alone
    return x, y


def shard(array, index, count):
    """Returns what a process sees of an array: of each batch its part."""
    batches = array.reshape(-1, BATCH, *array.shape[1:])
    part = BATCH // count
    return batches[:, part * index : part * (index + 1)].reshape(-1, *array.shape[1:])


def train(name, variant, distribution, accumulate=None, jit_compile=False, validate=True):
    """Returns the history of a short `fit` and the weights that it ends with."""
    import keras
    import numpy as np
    from keras import ops

    index, count = distribution.data_shard
    keras.utils.set_random_seed(distribution.process)  # all shall begin with the weights of process 0
    with distribution.scope():
        model = BUILDERS[name](variant)
        rng = np.random.default_rng(distribution.process)
        for weight in model.trainable_weights:  # so that no join is still `x + f(x)`
            weight.assign(ops.convert_to_numpy(weight) + 0.05 * rng.normal(size=weight.shape))
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True) if name == "strings" else "mse"
        if name == "resnet":
            loss = "sparse_categorical_crossentropy"
        if name in ("strings", "resnet", "linear", "overflow"):
            optimizer = keras.optimizers.SGD(0.05, momentum=0.9)
            if name == "overflow":
                optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
            model.compile(optimizer, loss, jit_compile=jit_compile)
        else:
            optimizer = keras.optimizers.AdamW(
                0.01, epsilon=1e-3, global_clipnorm=0.5, gradient_accumulation_steps=accumulate
            )
            model.compile(optimizer, loss, metrics=["mae"])
    distribution.prepare(model)
    x, y = keras.tree.map_structure(lambda array: None if array is None else shard(array, index, count), data(name))
    validation = (x, y) if validate else None
    history = model.fit(
        x, y, batch_size=BATCH // count, epochs=2, shuffle=False, verbose=0, validation_data=validation
    ).history
    return {
        "history": {key: [float(value) for value in values] for key, values in history.items()},
        "weights": [ops.convert_to_numpy(weight).tolist() for weight in model.weights],
    }


def main(path, jobs):
    if os.environ["KERAS_BACKEND"] == "tensorflow":
        import tensorflow as tf

        cpus = [tf.config.LogicalDeviceConfiguration()] * int(os.environ["CPUS"])
        tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], cpus)
    import keras

    from keras_laurel.distribution import distribute

    distribution = distribute("data", timeout=60)
    results = {
        "described": distribution.describe(),
        "shard": distribution.data_shard,
        "chief": distribution.is_chief,
        "trained": [train(name, variant, distribution, **kwargs) for name, variant, kwargs in jobs],
    }
    if distribution.num_processes > 1:
        odd = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1 + distribution.process)])
        odd.compile()
        try:
            distribution.prepare(odd)
        except ValueError as error:
            results["odd"] = str(error)
    with open(path.format(process=distribution.process), "w") as file:
        json.dump(results, file)


if __name__ == "__main__":
    main(sys.argv[1], json.loads(sys.argv[2]))

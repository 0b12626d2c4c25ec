"""Trains tiny models under JAX on virtual CPU devices, one kind of distribution after the other, and prints JSON.

    python mesh_training.py decoder '["add", "rw"]' '["none", "data", "model:2x4"]' model.weights.h5

As a part of several processes, which the KERAS_DISTRIBUTION_* variables connect, it takes one kind alone.
"""

import json
import sys

import numpy as np

BATCH, CLASSES = 8, 16


def decoder(residual):
    from keras_laurel.applications import LaurelCausalLM, LaurelDecoderBackbone

    # A rank below the model axis: LAuReL's weights are on every device.
    return LaurelCausalLM(LaurelDecoderBackbone(CLASSES, 2, 4, 8, 8, residual=residual, rank=2))


def resnet(residual):
    from keras_laurel.applications import LaurelResNet50

    return LaurelResNet50(
        weights=None,
        input_shape=(32, 32, 3),
        classes=CLASSES,
        classifier_activation=None,
        num_blocks=(2, 1),  # the second block has a previous state, the third has another shape
        filters=(4, 4),
        residual=residual,
        rank=2 if "lr" in residual else None,
    )


def setting(name):
    """Returns the model's builder, its layout map and two batches."""
    from keras_laurel.applications import LaurelDecoderBackbone, laurel_resnet50_layout_map

    rng = np.random.default_rng(0)
    if name == "decoder":
        tokens = rng.integers(CLASSES, size=(2 * BATCH, 5)).astype("int32")
        return decoder, LaurelDecoderBackbone.get_layout_map, tokens, np.roll(tokens, -1, axis=1)
    images = rng.normal(size=(2 * BATCH, 32, 32, 3)).astype("float32")
    return resnet, laurel_resnet50_layout_map, images, rng.integers(CLASSES, size=2 * BATCH)


def make(build, residual, distribution):
    import keras

    rng = np.random.default_rng(1)
    with distribution.scope():
        model = build(residual)
        for weight in model.trainable_weights:  # so that no join is still `x + f(x)`
            weight.assign(0.3 * rng.normal(size=weight.shape))
        model.compile(keras.optimizers.SGD(0.02), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    distribution.prepare(model)
    return model


def part(array, index, count):
    """Returns what a process reads: of each batch its part."""
    return np.concatenate([np.split(batch, count)[index] for batch in np.split(array, 2)])


def answers(model, x, y, distribution):
    """Returns the model's outputs, or of several processes, none of which has them all, the loss."""
    if distribution.num_processes == 1:
        return model.predict(x, batch_size=BATCH, verbose=0).tolist()
    index, count = distribution.data_shard
    return model.evaluate(part(x, index, count), part(y, index, count), batch_size=BATCH // count, verbose=0)


def main(name, variants, kinds, path):
    import keras

    from keras_laurel.distribution import distribute

    build, layout_map, x, y = setting(name)
    trained = {}
    for kind in kinds:
        keras.distribution.set_distribution(None)
        distribution = distribute(kind, layout_map=layout_map)
        index, count = distribution.data_shard
        for variant in variants:
            model = make(build, variant, distribution)
            data = part(x, index, count), part(y, index, count)
            history = model.fit(*data, batch_size=BATCH // count, epochs=2, shuffle=False, verbose=0).history
            trained[f"{variant} {kind}"] = {
                "losses": history["loss"],
                "shards": {
                    weight.path: [weight.shape, weight.value.addressable_data(0).shape] for weight in model.weights
                },
                "devices": len(model.weights[0].value.sharding.device_set),
            }
    outputs = {}
    if distribution.num_processes == 1 or distribution.kind == "data":
        # The weights trained last are read under each kind.
        outputs["written"] = answers(model, x, y, distribution)
        if distribution.is_chief:
            with distribution.local():
                model.save_weights(path)
        distribution.barrier()
        for kind in kinds:
            keras.distribution.set_distribution(None)
            reading = distribute(kind, layout_map=layout_map)
            model = make(build, variants[-1], reading)
            with reading.scope():
                model.load_weights(path)
            outputs[kind] = answers(model, x, y, reading)
    print(json.dumps({"described": distribution.describe(), "shard": [index, count], **trained, "outputs": outputs}))


if __name__ == "__main__":
    main(sys.argv[1], json.loads(sys.argv[2]), json.loads(sys.argv[3]), sys.argv[4])

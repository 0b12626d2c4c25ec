"""Images a second: of the input pipeline alone, of the model alone, and of both together."""

import dataclasses
import time

import keras

from applications.laurel_resnet50 import data, sources, train


def throughput(config, steps):
    """Measures `steps` training steps each way, after one that compiles and fills the pipeline.

    Args:
        config: A `Config`.
        steps: Positive integer.

    Returns:
        A dictionary of `pipeline`, `model` and `together`, in images a second.
    """
    tf = sources.tensorflow()
    images = sources.load_images(config)
    # As many passes as the steps need.
    passes = 1 + (steps + 1) // (data.steps_per_part(images.train, config) * config.parts)
    config = dataclasses.replace(config, epochs=max(config.epochs, passes))
    rates = {}
    batches = iter(data.training_batches(images, config))
    batch = next(batches)
    start = time.perf_counter()
    for _ in range(steps):
        next(batches)
    rates["pipeline"] = steps * config.batch_size / (time.perf_counter() - start)
    del batches
    with train.precision(config):
        model = train.compiled(config, images)
        fixed = tf.data.Dataset.from_tensors(batch).repeat()
        for name, dataset in (("model", fixed), ("together", data.training_batches(images, config))):
            clock = _Clock()
            model.fit(dataset, steps_per_epoch=steps + 1, shuffle=False, verbose=0, callbacks=[clock])
            rates[name] = steps * config.batch_size / (clock.times[-1] - clock.times[0])
    return rates


class _Clock(keras.callbacks.Callback):
    """Notes when each step has ended."""

    def __init__(self):
        super().__init__()
        self.times = []

    def on_train_batch_end(self, batch, logs=None):
        float((logs or {})["loss"])  # waits for the device
        self.times.append(time.perf_counter())

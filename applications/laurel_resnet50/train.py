"""One run: build, `model.fit`, evaluate once on the test images, record."""

import contextlib
import csv
import json
import math
import shutil
import sys
import time
from typing import Any

import keras

from applications.distribution import ALONE, chief_first, refusals
from applications.errors import UserError
from applications.files import write_json
from applications.initializers import initializer
from applications.laurel_resnet50 import configs, data, sources
from applications.precision import precision
from applications.runs import run_folder
from keras_laurel import LaurelMonitor, exclude_from_weight_decay
from keras_laurel.applications import LaurelResNet50
from keras_laurel.joins import WORDS
from keras_laurel.monitoring import join_values, laurel_joins


def run(config, folder, origin, verbose=2, distribution=ALONE):
    """Trains a model, or goes on with a run that stopped, and writes `folder/result.json`.

    Args:
        config: A `Config`.
        folder: Folder of the run: its record, weights, logs and backup.
        origin: Dictionary that begins the record: the command and `provenance()`.
        verbose: See `keras.Model.fit`.
        distribution: A `Distribution`. All its processes call this function; the chief writes, and all read. A run may
            go on under another one than that which it began with.

    Returns:
        The record, a dictionary.

    Raises:
        UserError: If the data are not as they must be, the folder holds another run, the loss is not finite, or the
            distribution refuses the batches or the model.
    """
    with refusals():
        distribution.check_batch(config.batch_size)
    if distribution.kind == "model" and distribution.num_processes > 1:
        raise UserError("the weights can be divided over the devices of one process alone; take --distribution data")
    with chief_first(distribution):
        images = sources.load_images(config)
    folder = run_folder(folder, configs.as_json(config), distribution)
    with precision(config) as policy, distribution.scope():
        with refusals():
            model = compiled(config, images)
            distribution.prepare(model)
        seconds = _fit(model, config, images, folder, verbose, distribution)
        if distribution.is_chief:
            model.save_weights(folder / "last.weights.h5")
        test = _evaluated(model, images.test, images, config, distribution)
        record = {
            "program": "laurel_resnet50",
            **origin,
            "distribution": distribution.describe(),
            "config": configs.as_json(config),
            "precision": policy,
            "weights": sum(math.prod(weight.shape) for weight in model.trainable_weights),
            "weights_with_statistics": model.count_params(),
            "steps_per_epoch": data.steps_per_part(images.train, config),
            "images": {"train": images.train.count, "held_out": config.held_out, "test": images.test.count},
            "epochs": _epochs(folder),
            "process_seconds": seconds,
            "test": test,
            "joins": {name: join_values(join) for name, join in laurel_joins(model).items()},
        }
        if distribution.is_chief:
            write_json(folder / "result.json", record)
            shutil.rmtree(folder / "backup", ignore_errors=True)
        distribution.barrier()
    return record


def compiled(config, images) -> Any:
    """Returns the model of `config`, compiled. Models of a seed that differ in their joins start from equal weights."""
    if config.residual not in WORDS:
        raise UserError(f"unknown residual {config.residual!r}; known: {', '.join(WORDS)}")
    keras.utils.set_random_seed(config.seed)
    build: Any = LaurelResNet50  # whose defaults say less about its types than its docstring
    model = build(
        weights=None,
        input_shape=(config.image_size, config.image_size, 3),
        classes=images.num_classes,
        classifier_activation=None,
        residual=config.residual,
        rank=config.rank,
        num_activations=config.num_activations,
        down_initializer=initializer(config.down_initializer),
        num_blocks=config.num_blocks,
        filters=config.filters,
    )
    optimizer = keras.optimizers.SGD(
        schedule(config, data.steps_per_part(images.train, config) * config.parts),
        momentum=config.momentum,
        nesterov=config.nesterov,
        weight_decay=config.weight_decay or None,
        use_ema=bool(config.ema),
        ema_momentum=config.ema or 0.99,
    )
    if config.weight_decay:
        # Those of BatchNormalization are gamma and beta.
        exclude_from_weight_decay(optimizer, model, var_names=["bias", "gamma", "beta"])
    model.compile(
        optimizer,
        keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=config.label_smoothing),
        weighted_metrics=[
            keras.metrics.CategoricalAccuracy(name="accuracy"),
            keras.metrics.TopKCategoricalAccuracy(min(5, images.num_classes), name="top5"),
            keras.metrics.CategoricalCrossentropy(from_logits=True, name="cross_entropy"),
        ],
    )
    return model


def schedule(config, steps_per_pass):
    """Returns the linear warmup with the cosine after it."""
    total = config.epochs * steps_per_pass
    warmup = min(round(config.warmup_epochs * steps_per_pass), total - 1)
    return keras.optimizers.schedules.CosineDecay(
        0.0 if warmup else config.learning_rate,
        total - warmup,
        warmup_target=config.learning_rate if warmup else None,
        warmup_steps=warmup,
    )


class EpochLog(keras.callbacks.Callback):
    """Adds the seconds of training, without evaluation, and the learning rate to the logs of each epoch."""

    async_safe = True

    def on_epoch_begin(self, epoch, logs=None):
        self.start = time.perf_counter()
        self.seconds = None

    def on_test_begin(self, logs=None):
        self.seconds = time.perf_counter() - self.start

    def on_epoch_end(self, epoch, logs=None):
        if logs is not None:
            logs["seconds"] = self.seconds or time.perf_counter() - self.start
            logs["learning_rate"] = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))


def _fit(model, config, images, folder, verbose, distribution):
    """Trains `model` from the backup in `folder`, or from the start; returns the seconds that it took."""
    start = time.perf_counter()
    first_part = _parts_done(folder)
    held_out = images.held_out
    best = [float(row["val_accuracy"]) for row in _epochs(folder)[:first_part] if "val_accuracy" in row]
    chief = distribution.is_chief
    log = keras.callbacks.CSVLogger(folder / "epochs.csv", append=True)
    written = [log, keras.callbacks.TensorBoard(folder / "tensorboard", write_graph=False)]
    callbacks = [
        *([keras.callbacks.ProgbarLogger()] if chief else []),  # before the monitor, whose many values would crowd it
        LaurelMonitor(),
        EpochLog(),
        keras.callbacks.TerminateOnNaN(raise_error=True),
        *(written if chief else []),
        keras.callbacks.BackupAndRestore(
            folder / "backup",
            save_freq="epoch" if chief else sys.maxsize,  # the others restore alone
            double_checkpoint=True,
            delete_checkpoint=False,
        ),
    ]
    if config.ema:
        # After the backup, which needs the weights as they are trained, and before the best ones are kept.
        callbacks.append(keras.callbacks.SwapEMAWeights(swap_on_epoch=True))
    if held_out is not None and chief:
        callbacks.append(
            keras.callbacks.ModelCheckpoint(
                folder / "best.weights.h5",
                monitor="val_accuracy",
                mode="max",
                save_best_only=True,
                save_weights_only=True,
                initial_value_threshold=max(best, default=None),
            )
        )
    with _unreadable_named(images):
        try:
            model.fit(
                data.training_batches(images, config, first_part, distribution.data_shard),
                epochs=config.epochs * config.parts,
                initial_epoch=first_part,
                steps_per_epoch=data.steps_per_part(images.train, config),
                validation_data=_evaluation(held_out, images, config, distribution) if held_out else None,
                callbacks=callbacks,
                shuffle=False,  # the batches are shuffled
                verbose=verbose if chief else 0,
            )
        except RuntimeError as error:
            if not str(error).startswith("NaN or Inf loss"):
                raise
            raise UserError(
                f"the loss is not finite any more; a learning_rate below {config.learning_rate} may help"
            ) from error
        finally:
            if chief and log.csv_file is not None:
                log.csv_file.close()  # which Keras leaves open where training stops early
    return time.perf_counter() - start


def _evaluation(split, images, config, distribution):
    """Returns the batches of an evaluation, or this process's part of them."""
    return data.evaluation_batches(
        split, images.num_classes, config, distribution.data_shard, distribution.num_replicas
    )


def _evaluated(model, split, images, config, distribution):
    """Returns the metrics on `split` as floats."""
    with _unreadable_named(images):
        batches = _evaluation(split, images, config, distribution)
        return {key: float(value) for key, value in model.evaluate(batches, verbose=0, return_dict=True).items()}


@contextlib.contextmanager
def _unreadable_named(images):
    """Turns TensorFlow's error about an image that cannot be decoded into one that names the file."""
    try:
        yield
    except sources.tensorflow().errors.OpError as error:
        path = sources.first_unreadable(images)
        if path is None:
            raise
        raise UserError(f"cannot decode the image {path}") from error


def _parts_done(folder):
    """Returns how many parts the backup in `folder` has behind it."""
    metadata = folder / "backup" / "training_metadata.json"
    return json.loads(metadata.read_text())["epoch"] if metadata.exists() else 0


def _epochs(folder):
    """Returns the rows of the log, as dictionaries of floats.

    A run that was killed between log and backup has an epoch twice: the second one led to the weights.
    """
    path = folder / "epochs.csv"
    if not path.exists():
        return []
    with open(path, newline="") as file:
        rows = {int(row["epoch"]): row for row in csv.DictReader(file)}
    return [{key: int(v) if key == "epoch" else float(v) for key, v in row.items()} for _, row in sorted(rows.items())]

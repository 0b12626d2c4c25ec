"""Where images come from: TFDS, a folder, keras.datasets or scikit-learn's digits."""

import dataclasses
import functools
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np

from applications.errors import UserError

FORMS = "tfds:NAME, folder:PATH, keras:NAME, digits"
KERAS_DATASETS = ("cifar10", "cifar100", "mnist", "fashion_mnist")
TEST_SPLITS = ("val", "validation", "test")
ENDINGS = (".jpg", ".jpeg", ".png")
TFDS_BUFFER = 16_384


@functools.cache
def tensorflow() -> Any:
    """Returns TensorFlow, kept off the GPUs where another backend computes on them.

    Raises:
        UserError: If it is not installed.
    """
    if importlib.util.find_spec("tensorflow") is None:
        raise UserError("the input pipeline needs TensorFlow: pip install 'keras-laurel[images]'")
    import tensorflow as tf

    if keras.backend.backend() != "tensorflow":
        tf.config.set_visible_devices([], "GPU")
    return tf


@dataclasses.dataclass(frozen=True)
class Split:
    """Images with labels.

    Attributes:
        count: How many.
        items: Function of a shuffling key (a pair of integers as a tensor, or `None` for the stored order) that returns
            a `tf.data.Dataset` of cheap items.
        load: Function of such an item that returns `(image, label)`; the image is an encoded string or an array of
            bytes `(height, width, 3)`.
    """

    count: int
    items: Callable[..., Any]
    load: Callable[..., Any]


@dataclasses.dataclass(frozen=True)
class Images:
    """A data set.

    Attributes:
        num_classes: Number of classes.
        train: The `Split` to train on.
        held_out: A `Split` of the training images that is never trained on, or `None`.
        test: The `Split` for the end.
        files: Paths of the images, if they are files.
    """

    num_classes: int
    train: Split
    held_out: Split | None
    test: Split
    files: tuple[str, ...] = ()


def load_images(config):
    """Returns the `Images` that `config` names.

    Raises:
        UserError: If they are not there, or not as they must be.
    """
    form, _, name = config.data.partition(":")
    if form == "tfds" and name:
        return _tfds(name, config)
    if form == "folder" and name:
        return _folder(name, config)
    if form == "keras" and name:
        return _keras(name, config)
    if config.data == "digits":
        return _digits(config)
    raise UserError(f"unknown data {config.data!r}; known: {FORMS}")


def first_unreadable(images):
    """Returns the path of the first file that is no image, or `None`: looked for when decoding failed."""
    tf = tensorflow()
    for path in images.files:
        try:
            tf.io.decode_image(tf.io.read_file(path), channels=3, expand_animations=False)
        except tf.errors.OpError:
            return path
    return None


def _counts(total_train, total_test, config):
    """Returns how many images to train on, to hold out and to test on."""
    if config.held_out >= total_train:
        raise UserError(f"held_out must leave images to train on: {config.data} has {total_train}")
    left = total_train - config.held_out
    for key, there in (("train_images", left), ("test_images", total_test)):
        wanted = getattr(config, key)
        if wanted is not None and wanted > there:
            raise UserError(f"{key} is {wanted}, but {config.data} has {there} (with {config.held_out} held out)")
    return config.train_images or left, config.held_out, config.test_images or total_test


def _test_split(names, config):
    wanted = (config.test_split,) if config.test_split else TEST_SPLITS
    found = [name for name in wanted if name in names]
    if "train" not in names or not found:
        raise UserError(
            f"{config.data} needs a split train and one of {', '.join(wanted)}; it has: {', '.join(sorted(names))}"
        )
    return found[0]


def _indexed(train, test, load_of, num_classes, config, files=()):
    """Returns `Images` of `(values, labels)` pairs of arrays that are picked by index.

    The held-out images are the first of a fixed permutation, the same for all seeds.
    """
    tf = tensorflow()
    counts = _counts(len(train[1]), len(test[1]), config)
    mixed = np.random.default_rng(0).permutation(len(train[1]))
    mixed_test = np.random.default_rng(0).permutation(len(test[1]))

    def split(pair, indices):
        values, labels = tf.constant(pair[0]), tf.constant(pair[1], "int64")
        indices = tf.constant(indices, "int64")

        def items(key):
            order = indices if key is None else tf.random.experimental.stateless_shuffle(indices, key)
            return tf.data.Dataset.from_tensor_slices(order)

        return Split(len(indices), items, lambda index: (load_of(values[index]), labels[index]))

    return Images(
        num_classes,
        train=split(train, mixed[counts[1] : counts[1] + counts[0]]),
        held_out=split(train, mixed[: counts[1]]) if counts[1] else None,
        test=split(test, mixed_test[: counts[2]]),
        files=files,
    )


def _folder(path, config):
    tf = tensorflow()
    root = Path(path)
    if not root.is_dir():
        raise UserError(f"there is no folder {path}")
    names = [entry.name for entry in root.iterdir() if entry.is_dir()]
    splits = {name: _class_files(root / name) for name in ("train", _test_split(names, config))}
    train, test = splits.values()
    if set(train) != set(test):
        odd = ", ".join(sorted(set(train) ^ set(test)))
        raise UserError(f"the classes of {' and '.join(str(root / name) for name in splits)} differ: {odd}")

    def pair(files):
        classes = sorted(files)
        labels = [label for label, name in enumerate(classes) for _ in files[name]]
        return [file for name in classes for file in files[name]], labels

    train, test = pair(train), pair(test)
    return _indexed(train, test, tf.io.read_file, max(train[1]) + 1, config, files=(*train[0], *test[0]))


def _class_files(folder):
    """Returns a dictionary of the classes of a split to their sorted paths."""
    classes = {}
    for entry in sorted(entry for entry in Path(folder).iterdir() if entry.is_dir()):
        classes[entry.name] = sorted(str(file) for file in entry.iterdir() if file.name.lower().endswith(ENDINGS))
        if not classes[entry.name]:
            raise UserError(f"no images ({', '.join(ENDINGS)}) in {entry}")
    if len(classes) < 2:
        raise UserError(f"there must be two folders of images or more, one a class, in {folder}")
    return classes


def _keras(name, config):
    if name not in KERAS_DATASETS:
        raise UserError(f"unknown data {config.data!r}; known: {', '.join(f'keras:{name}' for name in KERAS_DATASETS)}")
    try:
        train, test = getattr(keras.datasets, name).load_data()
    except Exception as error:  # keras.utils.get_file raises a bare Exception where there is no network
        raise UserError(f"cannot load {config.data}: {error}".splitlines()[0]) from error
    train, test = ((_colour(images), labels.reshape(-1)) for images, labels in (train, test))
    return _indexed(train, test, lambda image: image, int(train[1].max()) + 1, config)


def _digits(config):
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise UserError("the digits need scikit-learn: pip install 'keras-laurel[images]'") from error
    images, labels = load_digits(return_X_y=True)
    images = _colour((images.reshape(-1, 8, 8) * (255 / 16)).round().astype("uint8"))
    size = len(labels) * 4 // 5
    return _indexed((images[:size], labels[:size]), (images[size:], labels[size:]), lambda image: image, 10, config)


def _colour(images):
    """Returns `images` with three channels."""
    return images if images.ndim == 4 else np.repeat(images[..., None], 3, axis=-1)


def _tfds(name, config):
    tf = tensorflow()
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise UserError(f"{config.data} needs tensorflow-datasets: pip install 'keras-laurel[images]'") from error
    try:
        builder = tfds.builder(name, data_dir=config.data_dir)
        builder.download_and_prepare()
    except tfds.core.DatasetNotFoundError:
        raise UserError(f"TFDS knows no data set {name!r}; known forms of data: {FORMS}") from None
    except (AssertionError, OSError, ValueError) as error:  # no files, no network; wrong version
        raise UserError(f"cannot prepare {config.data}: {str(error).strip().splitlines()[0]}") from error
    features = builder.info.features
    if not {"image", "label"} <= set(features) or not isinstance(features["label"], tfds.features.ClassLabel):
        raise UserError(f"{config.data} is no image classification set: its features are {', '.join(features)}")
    infos = builder.info.splits
    test_name = _test_split(list(infos), config)
    counts = _counts(infos["train"].num_examples, infos[test_name].num_examples, config)

    def split(slice_, count):
        examples = builder.as_dataset(
            split=slice_,
            shuffle_files=False,
            decoders={"image": tfds.decode.SkipDecoding()},
            read_config=tfds.ReadConfig(try_autocache=False),
        )

        def items(key):
            if key is None:
                return examples
            # With a global seed of zero, TensorFlow would compare a seed that is a tensor with a number.
            tf.compat.v1.set_random_seed(None)
            return examples.shuffle(min(count, TFDS_BUFFER), seed=key[0] * 1_000_003 + key[1])

        return Split(count, items, lambda example: (example["image"], example["label"]))

    # The held-out images are the last ones: TFDS has shuffled the set when it was prepared.
    end = infos["train"].num_examples
    return Images(
        features["label"].num_classes,
        train=split(f"train[:{counts[0]}]", counts[0]),
        held_out=split(f"train[{end - counts[1]}:]", counts[1]) if counts[1] else None,
        test=split(f"{test_name}[:{counts[2]}]", counts[2]),
    )

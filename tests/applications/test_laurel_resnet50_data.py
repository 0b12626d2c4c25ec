import dataclasses

import keras
import numpy as np
import pytest

from applications.laurel_resnet50 import configs, data, sources
from applications.laurel_resnet50.sources import load_images

pytestmark = pytest.mark.slow_on("jax", "tensorflow")  # no backend has a part in the data

MEAN = np.array(data.MEAN_BGR, "float32")
SMALL = dataclasses.replace(
    configs.SMOKE, held_out=2, train_images=None, test_images=None, image_size=8, batch_size=2, eval_batch_size=2
)


def write_image(path, pixels):
    tf = sources.tensorflow()
    path.parent.mkdir(parents=True, exist_ok=True)
    encode = tf.io.encode_png if path.suffix == ".png" else lambda x: tf.io.encode_jpeg(x, quality=100)
    path.write_bytes(encode(pixels).numpy())


@pytest.fixture
def folder(tmp_path):
    """Two classes of images, each of one grey of its own: multiples of 10, class b above class a."""
    for label, name in enumerate("ab"):
        for i in range(5):
            pixels = np.full((6 + i, 12, 3), 10 * (5 * label + i), "uint8")
            write_image(tmp_path / "train" / name / f"{i}.{'png' if i % 2 else 'JPEG'}", pixels)
        write_image(tmp_path / "val" / name / "0.png", np.full((5, 5, 3), 200 + label, "uint8"))
    return dataclasses.replace(SMALL, data=f"folder:{tmp_path}")


def greys(batches):
    """Returns (grey, label) of all images that count."""
    return [
        (round(float(image[0, 0, 0] + MEAN[0]), 2), int(label.argmax()))
        for images, labels, *weights in batches.as_numpy_iterator()
        for image, label, *weight in zip(images, labels, *weights)
        if weight != [0.0]
    ]


def equal(batches, others):
    pairs = list(zip(batches.as_numpy_iterator(), others.as_numpy_iterator(), strict=True))
    assert pairs
    return all(np.array_equal(a, b) for one, other in pairs for a, b in zip(one, other))


def test_a_pass_has_each_image_once_and_none_that_is_held_out(folder):
    images = load_images(folder)
    assert (images.num_classes, images.train.count, images.held_out.count, images.test.count) == (2, 8, 2, 2)
    train = greys(data.training_batches(images, folder))
    held_out = greys(data.evaluation_batches(images.held_out, 2, folder))
    assert sorted(train + held_out) == [(10.0 * i, i // 5) for i in range(10)]
    assert sorted(greys(data.evaluation_batches(images.test, 2, folder))) == [(200.0, 0), (201.0, 1)]


def test_batches_depend_on_the_seed_alone(folder):
    config = dataclasses.replace(folder, flip=True, mixup=0.5)
    images = load_images(config)
    first = data.training_batches(images, config)
    keras.utils.set_random_seed(7)
    assert equal(first, data.training_batches(load_images(config), config))
    assert not equal(first, data.training_batches(images, dataclasses.replace(config, seed=1)))


def test_passes_differ(folder):
    config = dataclasses.replace(folder, epochs=2)
    order = greys(data.training_batches(load_images(config), config))
    assert sorted(order[:8]) == sorted(order[8:])
    assert order[:8] != order[8:]


@pytest.mark.parametrize("first_part", [1, 2, 3])
def test_a_run_goes_on_with_the_batches_that_it_would_have_seen(folder, first_part):
    config = dataclasses.replace(folder, epochs=2, parts=2, mixup=0.5)
    images = load_images(config)
    whole = data.training_batches(images, config)
    assert equal(whole.skip(2 * first_part), data.training_batches(images, config, first_part))


def test_images_that_fill_no_batch_or_part_are_left_for_another_pass(folder):
    config = dataclasses.replace(folder, held_out=3, epochs=2)
    assert len(greys(data.training_batches(load_images(config), config))) == 2 * 6


@pytest.mark.parametrize("ending", ["png", "jpg"])
def test_pixels_are_those_of_preprocess_input_in_an_encoded_image(ending, tmp_path):
    pixels = np.tile(np.array([10, 20, 30], "uint8"), (9, 7, 1))
    for folder in ("train/a", "train/b", "test/a", "test/b"):
        write_image(tmp_path / folder / f"0.{ending}", pixels)
    config = dataclasses.replace(SMALL, data=f"folder:{tmp_path}", held_out=0)
    images = load_images(config)
    expected = keras.applications.resnet.preprocess_input(pixels.astype("float32"))[0, 0]
    for dataset in (data.training_batches(images, config), data.evaluation_batches(images.test, 2, config)):
        ((batch, labels, *_),) = dataset.as_numpy_iterator()
        assert (batch.shape, batch.dtype) == ((2, 8, 8, 3), np.float32)
        assert sorted(labels.tolist()) == [[0.0, 1.0], [1.0, 0.0]]
        assert np.allclose(batch, expected, atol=0 if ending == "png" else 1.5)  # JPEG rounds colours


def arrays(monkeypatch, images):
    """Makes `keras:mnist` give `images`, labelled 0, 1, ..., for both splits."""
    pair = images, np.arange(len(images), dtype="uint8")
    monkeypatch.setattr(keras.datasets.mnist, "load_data", lambda: (pair, pair))
    return dataclasses.replace(SMALL, data="keras:mnist", held_out=0, batch_size=1)


def test_the_parts_of_batches_together_are_the_batches(folder):
    images, config = load_images(folder), dataclasses.replace(folder, batch_size=2, parts=2, epochs=2)
    for whole, first, second in (
        [data.training_batches(images, config, 1, part) for part in ((0, 1), (0, 2), (1, 2))],
        [data.evaluation_batches(images.train, 2, config, part, 2) for part in ((0, 1), (0, 2), (1, 2))],
    ):
        for batch, *halves in zip(*(each.as_numpy_iterator() for each in (whole, first, second)), strict=True):
            for array, *parts in zip(batch, *halves, strict=True):
                np.testing.assert_array_equal(array, np.concatenate(parts))


def test_what_fills_the_last_batch_weighs_nothing_and_the_mean_over_all_rows_is_that_of_the_images(folder):
    images = load_images(folder)
    batches = data.evaluation_batches(images.train, 2, folder, replicas=3).as_numpy_iterator()
    weights = np.concatenate([weights for _, _, weights in batches])
    np.testing.assert_allclose(weights, [9 / 8] * 8 + [0.0])


def test_a_test_image_is_its_central_square(monkeypatch):
    image = np.arange(24, dtype="uint8").reshape(1, 4, 6)
    config = dataclasses.replace(arrays(monkeypatch, image), crop_fraction=0.5, image_size=2)
    images = load_images(config)
    ((batch, _, _),) = data.evaluation_batches(images.test, 1, config).as_numpy_iterator()
    assert np.array_equal(np.round(batch + MEAN)[0, :, :, 0], [[8, 9], [14, 15]])


def test_crops_flips_and_mixtures_keep_shape_and_range(monkeypatch):
    noise = np.random.default_rng(0).integers(0, 256, (8, 12, 10, 3)).astype("uint8")
    config = arrays(monkeypatch, noise)
    config = dataclasses.replace(config, flip=True, mixup=0.5, min_area=0.1, batch_size=8)
    ((batch, labels),) = data.training_batches(load_images(config), config).as_numpy_iterator()
    assert (batch.shape, labels.shape) == ((8, 8, 8, 3), (8, 8))
    assert -0.01 < (batch + MEAN).min() < (batch + MEAN).max() < 255.01
    assert np.allclose(labels.sum(axis=1), 1.0)
    assert np.any((labels > 0.0) & (labels < 1.0))


def test_rand_augment_changes_images_and_keeps_their_range(monkeypatch):
    noise = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3)).astype("uint8")
    monkeypatch.setattr(data, "RANDAUGMENT_OPS", 1)  # under JAX Keras takes long to trace each
    config = dataclasses.replace(arrays(monkeypatch, noise), batch_size=4, min_area=1.0)
    images = load_images(config)
    ((plain, _),) = data.training_batches(images, config).as_numpy_iterator()
    changed = data.training_batches(images, dataclasses.replace(config, randaugment=0.5))
    ((batch, _),) = changed.as_numpy_iterator()
    assert batch.shape == plain.shape
    assert sum(not np.allclose(a, b, atol=1.0) for a, b in zip(batch, plain)) >= 2  # some draw no change
    assert -0.01 < (batch + MEAN).min() < (batch + MEAN).max() < 255.01


def test_keras_data_that_cannot_be_loaded_is_a_clear_error(monkeypatch):
    def no_network():
        raise Exception("URL fetch failure on https://...")  # as keras.utils.get_file does

    monkeypatch.setattr(keras.datasets.cifar10, "load_data", no_network)
    with pytest.raises(sources.UserError, match="cannot load keras:cifar10: URL fetch failure"):
        load_images(dataclasses.replace(SMALL, data="keras:cifar10"))


def test_a_missing_tensorflow_is_a_clear_error(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(sources.UserError, match="the input pipeline needs TensorFlow: pip install"):
        sources.tensorflow.__wrapped__()


def test_digits_are_scikit_learns():
    images = load_images(SMALL)
    assert (images.num_classes, images.train.count, images.held_out.count, images.test.count) == (10, 1435, 2, 360)
    ((batch, labels, _),) = data.evaluation_batches(images.test, 10, SMALL).take(1).as_numpy_iterator()
    assert np.allclose((batch + MEAN).max(), 255)
    assert np.array_equal(labels.sum(axis=1), [1.0, 1.0])


@pytest.fixture
def tiny_tfds(tmp_path):
    """A TFDS data set of ten images of a grey of their own, and one of numbers."""
    import tensorflow_datasets as tfds

    class TinyImages(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        def _features(self):
            return {
                "image": tfds.features.Image(shape=(None, None, 3)),
                "label": tfds.features.ClassLabel(num_classes=2),
            }

        def _info(self):
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(self._features()))

        def _split_generators(self, manager):
            return {"train": self._generate_examples(range(10)), "validation": self._generate_examples([20, 21])}

        def _generate_examples(self, numbers):
            for i in numbers:
                yield i, {"image": np.full((4, 4, 3), 10 * i, "uint8"), "label": i % 2}

    class TinyNumbers(TinyImages):
        def _features(self):
            return {"image": tfds.features.Scalar(np.int64)}

        def _generate_examples(self, numbers):
            for i in numbers:
                yield i, {"image": i}

    return dataclasses.replace(SMALL, data_dir=str(tmp_path))


def test_any_image_classification_set_of_tfds(tiny_tfds):
    config = dataclasses.replace(tiny_tfds, data="tfds:tiny_images")
    images = load_images(config)
    assert (images.num_classes, images.train.count, images.held_out.count, images.test.count) == (2, 8, 2, 2)
    train = data.training_batches(images, config)
    held_out = greys(data.evaluation_batches(images.held_out, 2, config))
    assert sorted(greys(train) + held_out) == [(10.0 * i, i % 2) for i in range(10)]
    assert greys(data.evaluation_batches(images.test, 2, config)) == [(200.0, 0), (210.0, 1)]
    assert equal(train, data.training_batches(images, config))
    assert not equal(train, data.training_batches(images, dataclasses.replace(config, seed=1)))
    with pytest.raises(sources.UserError, match=r"tfds:tiny_numbers is no image classification set: .* are image"):
        load_images(dataclasses.replace(config, data="tfds:tiny_numbers"))

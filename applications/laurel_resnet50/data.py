"""From images to batches: crops, flips and mixtures that depend on the seed and the place in the run alone."""

import keras

from applications.errors import UserError
from applications.laurel_resnet50.sources import tensorflow

MEAN_BGR = (103.939, 116.779, 123.68)  # as keras.applications.resnet.preprocess_input
RANDAUGMENT_OPS = 2  # as in the paper, arXiv 1909.13719


def steps_per_part(split, config):
    """Returns the number of training steps in each part of a pass.

    Raises:
        UserError: If a part has none.
    """
    steps = split.count // config.batch_size // config.parts
    if steps == 0:
        raise UserError(
            f"{split.count} images to train on are too few for {config.parts} part(s) of batch_size {config.batch_size}"
        )
    return steps


def training_batches(images, config, first_part=0, part=(0, 1)):
    """Returns the batches of a run from `first_part` to its end, or a part of each, as a `tf.data.Dataset`.

    A run that stopped goes on with the batches that it would have seen: order, crops and mixtures depend on the seed,
    the pass and the place in it, and on no generator's state. Images are read, decoded and changed in parallel.

    Args:
        images: An `Images`.
        config: A `Config`.
        first_part: Number of parts that are done.
        part: `(index, count)`: the rows of each batch that are given out, of so many equal parts. Other images are not
            decoded. MixUp mixes the rows of a part.

    Returns:
        A dataset of `(rows, image_size, image_size, 3)` pixels and `(rows, num_classes)` labels.
    """
    tf = tensorflow()
    split = images.train
    part_size = steps_per_part(split, config) * config.batch_size
    first_pass, parts_done = divmod(first_part, config.parts)
    randaugment, mixup = _keyed_layers(config)

    def one_pass(number):
        # Keys of images are not negative.
        items = split.items(tf.stack([tf.constant(config.seed, "int64"), -1 - number]))
        items = items.take(part_size * config.parts)
        done = tf.where(number == first_pass, tf.constant(parts_done * part_size, "int64"), 0)
        items = items.skip(done).enumerate()
        items = _rows(items, config.batch_size, part)
        return items.map(lambda place, item: (number * split.count + done + place, item))

    def prepare(place, item):
        crop_key, flip_key, augment_key = tf.unstack(_split(tf.stack([config.seed, place]), 3))
        image, label = split.load(item)
        image = _random_crop(image, crop_key, config)
        if config.flip:
            image = tf.image.stateless_random_flip_left_right(image, flip_key)
        if randaugment is not None:
            image = tf.clip_by_value(randaugment(image, augment_key), 0.0, 255.0)
        return place, image, tf.one_hot(label, images.num_classes)

    def finish(places, batch, labels):
        if mixup is not None:
            mixed = mixup({"images": batch, "labels": labels}, _split(tf.stack([config.seed, places[0]]), 4)[3])
            batch, labels = mixed["images"], mixed["labels"]
        return _normalised(batch), labels

    dataset = tf.data.Dataset.range(first_pass, config.epochs).flat_map(one_pass)
    dataset = dataset.map(prepare, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    dataset = dataset.batch(config.batch_size // part[1], drop_remainder=True)
    return dataset.map(finish, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True).prefetch(tf.data.AUTOTUNE)


def evaluation_batches(split, num_classes, config, part=(0, 1), replicas=1):
    """Returns the central squares of all images of `split`, in order, as a `tf.data.Dataset` of equal batches.

    The images come as `(pixels, labels, weights)`. The last batch is filled up with images that weigh nothing, and the
    others weigh so much more that a mean over all rows, as Keras takes it of losses, is the mean over the images.

    Args:
        split: A `Split`.
        num_classes: Number of classes.
        config: A `Config`.
        part: See `training_batches`.
        replicas: Number of which the size of a batch is made a multiple.
    """
    tf = tensorflow()
    size = -(-min(config.eval_batch_size, split.count) // replicas) * replicas
    padded = -(-split.count // size) * size

    def prepare(place, item):
        image, label = split.load(item)
        weight = tf.where(place < split.count, padded / split.count, 0.0)
        return _central_crop(image, config), tf.one_hot(label, num_classes), tf.cast(weight, "float32")

    items = split.items(None).take(split.count).repeat().take(padded).enumerate()
    dataset = _rows(items, size, part).map(prepare, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    dataset = dataset.batch(size // part[1], drop_remainder=True)
    return dataset.map(lambda batch, *rest: (_normalised(batch), *rest)).prefetch(tf.data.AUTOTUNE)


def _rows(items, batch_size, part):
    """Returns those of enumerated items that belong to a part of each batch."""
    index, count = part
    if count == 1:
        return items
    return items.filter(lambda place, item: place % batch_size // (batch_size // count) == index)


def _split(key, count):
    return tensorflow().random.experimental.stateless_split(key, count)


def _normalised(batch):
    return batch[..., ::-1] - tensorflow().constant(MEAN_BGR)


def _random_crop(image, key, config):
    """Returns a crop of random area and aspect ratio, resized: Szegedy et al., arXiv 1409.4842, section 6."""
    tf = tensorflow()

    def window(shape):
        begin, size, _ = tf.image.stateless_sample_distorted_bounding_box(
            shape,
            tf.constant([[[0.0, 0.0, 1.0, 1.0]]]),
            key,
            min_object_covered=0.0,
            aspect_ratio_range=(3 / 4, 4 / 3),
            area_range=(config.min_area, 1.0),
            max_attempts=10,
        )
        return tf.concat([begin[:2], size[:2]], 0)

    return _resized(_cropped(image, window), config.image_size)


def _central_crop(image, config):
    tf = tensorflow()

    def window(shape):
        side = tf.cast(tf.round(config.crop_fraction * tf.cast(tf.minimum(shape[0], shape[1]), "float32")), "int32")
        side = tf.maximum(side, 1)
        return tf.stack([(shape[0] - side) // 2, (shape[1] - side) // 2, side, side])

    return _resized(_cropped(image, window), config.image_size)


def _cropped(image, window):
    """Cuts `window(shape)`, as (top, left, height, width), out of an array or an encoded image."""
    tf = tensorflow()

    def cut(pixels):
        top, left, height, width = tf.unstack(window(tf.shape(pixels)))
        return pixels[top : top + height, left : left + width]

    if image.dtype != tf.string:
        return cut(image)
    return tf.cond(
        tf.io.is_jpeg(image),
        # Decodes no more of a JPEG than the window needs.
        lambda: tf.io.decode_and_crop_jpeg(image, window(tf.io.extract_jpeg_shape(image)), channels=3),
        lambda: cut(tf.io.decode_image(image, channels=3, expand_animations=False)),
    )


def _resized(image, size):
    image = tensorflow().image.resize(image, (size, size))
    image.set_shape((size, size, 3))
    return image


def _keyed_layers(config):
    """Returns Keras's RandAugment and MixUp as functions of data and a key, or `None` where they are off."""
    randaugment = mixup = None
    if config.randaugment:
        randaugment = _keyed(
            keras.layers.RandAugment, value_range=(0, 255), num_ops=RANDAUGMENT_OPS, factor=config.randaugment
        )
    if config.mixup:
        mixup = _keyed(keras.layers.MixUp, alpha=config.mixup)
    return randaugment, mixup


def _keyed(layer_class, **kwargs):
    """Makes an augmentation layer of Keras draw from a key instead of from a generator's state.

    The state would make parallel calls race for it, and a run that goes on after a stop draw anew.
    """
    tf = tensorflow()

    class Keys(keras.random.SeedGenerator):
        def next(self, ordered=True):
            self.key, key = tf.unstack(_split(self.key, 2))
            return key

    class Keyed(layer_class):
        def _get_seed_generator(self, backend=None):
            return keys

    keys = Keys(0)
    layer = Keyed(**kwargs, dtype="float32", name=layer_class.__name__.lower())

    def call(inputs, key):
        keys.key = key
        return layer(inputs)

    return call

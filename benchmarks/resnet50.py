"""ResNet-50, as a subject of the benchmarks."""

from typing import Any

import keras
import numpy as np

from keras_laurel.applications import LaurelResNet50
from keras_laurel.joins import WORDS

VARIANTS = ("keras", "add", "rw", "rw+lr", "rw+lr+pa", "add+1")
KNOWN_VARIANTS = (*VARIANTS, *(word for word in WORDS if word not in VARIANTS))
RANK, NUM_ACTIVATIONS, CLASSES = 16, 3, 1000


def build(variant, image_size, jit_compile="auto", config=None, classes=CLASSES):
    """Returns the compiled model of a variant.

    Args:
        variant: `"keras"` is `keras.applications.ResNet50`; `"add+1"` the paper's control, one more block in the third
            stage; else a word for `keras_laurel.residual`.
        image_size: Side of the images.
        jit_compile: See `keras.Model.compile`.
        config: A `Config` of the recipe, whose depths and widths to take for those of ResNet-50.
        classes: Number of classes.
    """
    num_blocks = (3, 4, 6, 3)
    shape: dict[str, Any] = {}
    if config is not None:
        num_blocks, shape = config.num_blocks, {"filters": config.filters}
    if variant == "add+1":
        num_blocks = (*num_blocks[:-2], num_blocks[-2] + 1, num_blocks[-1])
    arguments: dict[str, Any] = {
        "weights": None,
        "input_shape": (image_size, image_size, 3),
        "classes": classes,
        "classifier_activation": None,
    }
    if variant == "keras":
        model = keras.applications.ResNet50(**arguments)
    else:
        laurel: Any = LaurelResNet50  # whose defaults say less about its types than its docstring
        model = laurel(
            **arguments,
            residual="add" if variant == "add+1" else variant,
            rank=RANK,
            num_activations=NUM_ACTIVATIONS,
            num_blocks=num_blocks,
            **shape,
        )
    model.compile(
        keras.optimizers.SGD(1e-3, momentum=0.9),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=jit_compile,
    )
    return model


def batch(batch_size, image_size, classes=CLASSES):
    """Returns random images and labels."""
    rng = np.random.default_rng(0)
    images = rng.normal(size=(batch_size, image_size, image_size, 3)).astype("float32")
    return images, rng.integers(classes, size=batch_size).astype("int32")

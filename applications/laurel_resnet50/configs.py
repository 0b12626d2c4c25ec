"""Named settings of a run, and how they are changed from the command line."""

import dataclasses

from applications import settings as fields
from applications.errors import UserError
from applications.settings import as_json as as_json
from applications.variants import parsed


@dataclasses.dataclass(frozen=True)
class Config:
    """All that decides a run; two runs of equal settings see the same batches.

    Attributes:
        data: Where the images are; see `sources.FORMS`.
        data_dir: Folder of TFDS; its own by default.
        test_split: Name of the test split; by default the first there is of val, validation and test.
        held_out: Number of training images that are never trained on, for choices and for the best weights.
        train_images: Number of images to train on; all by default.
        test_images: Number of test images; all by default.
        image_size: Side of the square images that the network sees.
        min_area: Smallest part of an image's area that a random crop keeps; 1 keeps all of it.
        flip: Whether to flip images at random, left to right.
        randaugment: Strength of `keras.layers.RandAugment`, 0 to 1; 0 is off.
        mixup: Alpha of `keras.layers.MixUp`; 0 is off.
        crop_fraction: Part of the shorter side that a test image's central square keeps.
        batch_size: Number of images in a training step, over all devices and processes.
        eval_batch_size: Number of images in an evaluation step, likewise, rounded up to a multiple of the devices. The
            last batch of a set is filled up with images that do not count.
        epochs: Number of passes over the training images.
        parts: Each pass is cut into that many parts, each of which ends in an evaluation and a backup.
        learning_rate: The highest; reached after `warmup_epochs`, then a cosine down to 0.
        warmup_epochs: Length of the linear warmup, in passes.
        momentum: Of SGD.
        nesterov: Whether the momentum is Nesterov's.
        weight_decay: Of the kernels alone. Keras's SGD decouples it from momentum: an L2 penalty of 1e-4 at momentum
            0.9 decays as much as 1e-3 here.
        label_smoothing: Of the training loss; the cross-entropy that is reported has none.
        ema: Decay of an exponential moving average of the weights, which is then what is evaluated; 0 is off.
        precision: A Keras dtype policy, or "auto": mixed_bfloat16 on TPUs and recent GPUs, else float32.
        residual: Word for `keras_laurel.residual`.
        rank: Rank of the low-rank maps.
        num_activations: Number of states that PA weighs.
        down_initializer: Of the low-rank maps' first factor, `"column_orthogonal"` or the name of a Keras initializer.
        num_blocks: Blocks of each stage.
        filters: Width of each stage's bottleneck.
        seed: Of the initial weights and the batches.
    """

    data: str = "tfds:imagenet2012"
    data_dir: str | None = None
    test_split: str | None = None
    held_out: int = 10_000
    train_images: int | None = None
    test_images: int | None = None
    image_size: int = 224
    min_area: float = 0.08
    flip: bool = True
    randaugment: float = 0.0
    mixup: float = 0.0
    crop_fraction: float = 0.875
    batch_size: int = 1024
    eval_batch_size: int = 1000
    epochs: int = 90
    parts: int = 1
    learning_rate: float = 0.4
    warmup_epochs: float = 5.0
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float = 5e-4
    label_smoothing: float = 0.1
    ema: float = 0.0
    precision: str = "auto"
    residual: str = "rw+lr"
    rank: int = 16
    num_activations: int = 3
    down_initializer: str = "glorot_uniform"
    num_blocks: tuple[int, ...] = (3, 4, 6, 3)
    filters: tuple[int, ...] = (64, 128, 256, 512)
    seed: int = 0


# Paper:    LAuReL (arXiv 2411.07501), section 3.1: one epoch, with augmentation, a schedule tuned for the baseline. It
#           is not published, and neither are batch size and rates: these are ours, untuned.
# Command:  python -m applications.laurel_resnet50 train --config imagenet_1ep --residual rw+lr
# Hardware: 16 TPU v5e in the paper; written for one GPU of 80 GB or one TPU host.
# Result:   not run. The paper's: add 74.95, add+1 75.20, rw 75.10, rw+lr 75.20, rw+lr+pa 75.25.
IMAGENET_1EP = Config(
    epochs=1, parts=10, warmup_epochs=0.1, learning_rate=0.8, min_area=0.25, label_smoothing=0.0, weight_decay=5e-4
)

# Paper:    none for LAuReL; the usual 90 epochs: Goyal et al. (arXiv 1706.02677), with the cosine and label smoothing
#           of He et al. (arXiv 1812.01187).
# Command:  python -m applications.laurel_resnet50 train --config imagenet_90ep --residual rw+lr
# Hardware: one GPU of 80 GB (bfloat16) or one TPU host.
# Result:   not run.
IMAGENET_90EP = Config()

# Paper:    none; a comparison of the joins that two CPU cores can do: the builder of ResNet-50 with fewer and narrower
#           blocks, two passes. The learning rate is the best for `add` on the held-out images (README.md).
# Command:  python -m applications.laurel_resnet50 experiment --config cifar10_small --data folder:runs/data/cifar10
# Hardware: two CPU cores, JAX.
# Result:   README.md
CIFAR10_SMALL = Config(
    data="keras:cifar10",
    held_out=5_000,
    image_size=32,
    min_area=0.5,
    crop_fraction=1.0,
    batch_size=125,
    eval_batch_size=500,
    epochs=2,
    parts=4,
    learning_rate=0.05,
    warmup_epochs=0.5,
    label_smoothing=0.0,
    num_blocks=(2, 2, 3, 2),
    filters=(16, 32, 64, 128),
)

# Paper:    none; shows that everything runs. The real ResNet-50 graph on scikit-learn's digits.
# Command:  python -m applications.laurel_resnet50 train --smoke
# Hardware: two CPU cores, one to two minutes on any backend.
# Result:   a finite loss, asserted by tests/applications/test_laurel_resnet50_smoke.py
SMOKE = Config(
    data="digits",
    held_out=8,
    train_images=32,
    test_images=8,
    image_size=32,
    min_area=0.5,
    flip=False,
    crop_fraction=1.0,
    batch_size=8,
    eval_batch_size=8,
    epochs=1,
    learning_rate=0.002,
    warmup_epochs=0.25,
)

CONFIGS = {
    "imagenet_1ep": IMAGENET_1EP,
    "imagenet_90ep": IMAGENET_90EP,
    "cifar10_small": CIFAR10_SMALL,
    "smoke": SMOKE,
}

VARIANTS = ("add", "add+1", "rw", "rw+lr", "rw+lr+pa")


def named(name):
    """Returns the config of that name."""
    if name not in CONFIGS:
        raise UserError(f"unknown config {name!r}; known: {', '.join(CONFIGS)}")
    return CONFIGS[name]


def with_variant(config, variant):
    """Returns `config` with what `variant` names; see `applications.variants.parsed`.

    Blocks are added to the last stage but one, the third of ResNet-50's four: "add+1" is the paper's control.
    """
    word, more, settings = parsed(variant)
    blocks = list(config.num_blocks)
    blocks[-2] += more
    return with_settings(dataclasses.replace(config, residual=word, num_blocks=tuple(blocks)), settings)


def with_settings(config, settings):
    """Returns `config` with changes as the command line writes them; see `applications.settings.with_settings`."""
    return checked(fields.with_settings(config, settings))


def checked(config):
    """Returns `config`.

    Raises:
        UserError: If a value is out of its range.
    """
    fields.check_ranges(
        config,
        {
            "at least 1": ("batch_size", "eval_batch_size", "epochs", "parts", "rank", "num_activations"),
            "at least 32": ("image_size",),
            "at least 0": ("held_out", "warmup_epochs", "weight_decay", "seed", "mixup"),
            "above 0": ("learning_rate", "train_images", "test_images"),
            "above 0 and at most 1": ("min_area", "crop_fraction"),
            "at least 0 and at most 1": ("randaugment",),
            "at least 0 and below 1": ("ema", "momentum", "label_smoothing"),
        },
    )
    for key in ("num_blocks", "filters"):
        value = getattr(config, key)
        if not 2 <= len(value) == len(config.filters) or min(value) < 1:
            stages = max(2, len(config.filters))
            raise UserError(f"{key} must be {stages} numbers above 0, not {','.join(map(str, value))}")
    if config.warmup_epochs >= config.epochs:
        raise UserError(f"warmup_epochs must be below epochs ({config.epochs}), not {config.warmup_epochs}")
    fields.check_choices(config, {"precision": ("auto", "float32", "mixed_bfloat16", "mixed_float16")})
    return config

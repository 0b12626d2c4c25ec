"""ResNet-50 with LAuReL joins."""

import os
from typing import Any

from keras.src.applications import resnet  # the stages behind `keras.applications.ResNet50`; not exported

from keras_laurel.retrofit import laurelize

# The depths whose ImageNet weights Keras publishes, by the name of their weights.
PUBLISHED = {(3, 4, 6, 3): "resnet50", (3, 4, 23, 3): "resnet101", (3, 8, 36, 3): "resnet152"}
FILTERS = (64, 128, 256, 512)


def LaurelResNet50(  # noqa: N802, named as keras.applications names its builders
    include_top=True,
    weights="imagenet",
    input_tensor=None,
    input_shape=None,
    pooling=None,
    classes=1000,
    classifier_activation="softmax",
    name="laurel_resnet50",
    *,
    residual="rw+lr",
    rank=None,
    num_activations=None,
    num_blocks=(3, 4, 6, 3),
    filters=FILTERS,
    **kwargs,
):
    """Builds `keras.applications.ResNet50` with LAuReL joins in place of its 16 additions.

    The model starts as the plain network of the same weights, ImageNet's included: a new join returns `x + f(x)`.
    With `residual="add"` it *is* the plain network.

    Args:
        include_top: See `keras.applications.ResNet50`, as for the arguments up to `name`.
        weights: `None` for random ones; `"imagenet"` for those of the plain network, published for the depths of
            ResNet-50, 101 and 152; or the path of a file that `save_weights` of such a model wrote.
        input_tensor: A `keras.Input`, or any `KerasTensor`, whose layers are then copied into the model.
        input_shape: See there.
        pooling: See there.
        classes: See there.
        classifier_activation: See there.
        name: See there.
        residual: `"add"`, `"rw"`, `"lr"`, `"pa"`, a sum such as `"rw+lr"`, or a callable that makes a layer.
        rank: Rank of the low-rank maps, for words with `lr`. Defaults to 16; the paper's best are 16 and 32.
        num_activations: Number k of states weighed, for words with `pa`. Defaults to 3.
        num_blocks: Blocks of each stage. (3, 4, 7, 3) is the paper's control, one more layer; (3, 4, 23, 3) is
            ResNet-101, (3, 8, 36, 3) ResNet-152.
        filters: Width of each stage's bottleneck; the stage has four times as many channels.
        **kwargs: Other arguments of `keras_laurel.residual`, such as `drop_path`.

    Returns:
        A functional `keras.Model`.

    Raises:
        ValueError: If Keras has no published weights for `num_blocks` and `filters`, or as
            `keras.applications.ResNet50` and `keras_laurel.residual` do.

    Example:
    >>> from keras_laurel.applications import LaurelResNet50
    >>> model = LaurelResNet50(weights=None, input_shape=(32, 32, 3), residual="rw")
    >>> sum(isinstance(layer, keras_laurel.Laurel) for layer in model.layers)
    16

    Reference:
        [Menghani et al., 2025](https://arxiv.org/abs/2411.07501), section 3.1
    """
    if len(num_blocks) != len(filters):
        raise ValueError(f"Expected one width a stage. Received: num_blocks={num_blocks}, filters={filters}")
    if weights == "imagenet" and (tuple(num_blocks) not in PUBLISHED or tuple(filters) != FILTERS):
        raise ValueError(
            f"Expected num_blocks to be one of {list(PUBLISHED)} and filters={FILTERS} with weights='imagenet'. "
            f"Received: num_blocks={num_blocks}, filters={filters}"
        )
    if weights not in (None, "imagenet") and not os.path.exists(weights):
        raise ValueError(f"Expected `weights` to be None, 'imagenet' or an existing file. Received: weights={weights}")

    def stages(x):
        for stage, (blocks, width) in enumerate(zip(num_blocks, filters), start=2):
            stride = 1 if stage == 2 else 2
            x = resnet.stack_residual_blocks_v1(x, width, blocks, stride1=stride, name=f"conv{stage}")
        return x

    model = resnet.ResNet(
        stages,
        preact=False,
        use_bias=True,
        include_top=include_top,
        weights="imagenet" if weights == "imagenet" else None,
        input_tensor=input_tensor,
        input_shape=input_shape,
        pooling=pooling,
        classes=classes,
        classifier_activation=classifier_activation,
        name=name,
        weights_name=PUBLISHED.get(tuple(num_blocks)),
    )
    if residual != "add" or kwargs:
        model: Any = laurelize(model, residual, rank=rank, num_activations=num_activations, **kwargs)
    if weights not in (None, "imagenet"):
        model.load_weights(weights)
    return model

"""How `keras_laurel.fold` folds the decoder."""

import keras

from keras_laurel.applications.laurel_decoder.backbone import LaurelDecoderBackbone
from keras_laurel.applications.laurel_decoder.block import LaurelDecoderBlock
from keras_laurel.applications.laurel_decoder.causal_lm import LaurelCausalLM
from keras_laurel.folding.joins import JOINS, out_of_range, plain_arguments
from keras_laurel.folding.model import REMAKERS
from keras_laurel.folding.rules import described, rule
from keras_laurel.retrofit.models import copy_layer


@rule(LaurelDecoderBlock)
def block(folding, layer, inputs, outputs):
    """The layers in the block, as its `call` calls them."""
    states = list(inputs)
    fx = _branch(folding, layer.mixer_norm, layer.mixer, states[0])
    if layer.feedforward is None:
        pass
    elif len(layer.joins) == 2:
        states = _join(folding, layer, layer.joins[0], states, fx)
        fx = _branch(folding, layer.feedforward_norm, layer.feedforward, states[0])
    else:
        why = f"{described(layer)}, which adds two branches to the stream and joins both as one (`joins='block'`)"
        folding.tie(states[0], fx, why=why)
        folding.tie(fx, _branch(folding, layer.feedforward_norm, layer.feedforward, fx), why=why)
    for state, output in zip(_join(folding, layer, layer.joins[-1], states, fx), outputs):
        folding.tie(state, output)


def _branch(folding, norm, sublayer, x):
    normalized, fx = object(), object()
    folding.apply(norm, [x], [normalized])
    folding.apply(sublayer, [normalized], [fx])
    return fx


def _join(folding, layer, join, states, fx):
    """`keras_laurel.history.advance`, of scales."""
    x, *before = states
    y = object()
    folding.apply(join, [x, fx, *before[: getattr(join, "max_previous", 0)]], [y])
    if id(join) in folding.skip_bits:
        raise out_of_range(join)
    return [y, *(before if layer.previous == "first" else states[: len(before)])]


def fold_block(folding, layer):
    """Returns a new `LaurelDecoderBlock` like `layer`, with plain joins and the norms' new epsilons."""
    joins = [folding.plain_join(join) if type(join) in JOINS else copy_layer(join) for join in layer.joins]
    config = {
        **layer.get_config(),
        "joins": [keras.saving.serialize_keras_object(join) for join in joins],
        "norm_epsilon": _epsilons(folding, *_norms(layer)),
    }
    return LaurelDecoderBlock.from_config(config)


def fold_backbone(folding, model):
    """Returns the folded copy of a `LaurelDecoderBackbone`."""
    joins = [join for layer in model.transformer_layers for join in layer.joins]
    kinds = []
    for join in joins:
        if type(join) in JOINS:
            kinds.append(plain_arguments(join))
            folding.plain_join(join)
        elif type(join) is keras.layers.Add:
            kinds.append({})
    if any(kind != kinds[0] for kind in kinds) or (kinds and len(kinds) < len(joins)):
        raise ValueError(
            "Expected joins of one kind: a decoder has one `residual`. "
            f"Received: '{model.name}', whose `residual` makes joins of several"
        )
    norms = [norm for layer in model.transformer_layers for norm in _norms(layer)]
    epsilons = _epsilons(folding, *norms, model.layer_norm)
    config = {**model.get_config(), "norm_epsilon": epsilons[0] if len(set(epsilons)) == 1 else epsilons}
    if kinds:
        config.update(_residual(kinds[0]))
    copy = LaurelDecoderBackbone.from_config(config)
    folding.copy_values(model, copy)
    return copy


def _norms(layer):
    return [layer.mixer_norm] if layer.feedforward is None else [layer.mixer_norm, layer.feedforward_norm]


def _epsilons(folding, *norms):
    return [folding.epsilons.get(id(norm), norm.epsilon) for norm in norms]


def _residual(arguments):
    """Returns the entries of a backbone's config that make joins of these arguments of `Laurel`."""
    rank, num_activations = arguments.pop("rank", None), arguments.pop("num_activations", None)
    word = {(0, 0): "add", (1, 0): "lr", (0, 1): "pa", (1, 1): "lr+pa"}[rank is not None, num_activations is not None]
    if num_activations is None:
        arguments.pop("previous", None)
    return {
        "residual": word,
        "rank": rank,
        "num_activations": num_activations,
        "residual_arguments": keras.saving.serialize_keras_object(arguments),
    }


def fold_causal_lm(folding, model):
    """Returns the folded copy of a `LaurelCausalLM`, with the same preprocessor."""
    return LaurelCausalLM(folding.copy(model.backbone), model.preprocessor, name=model.name)


REMAKERS.update({LaurelDecoderBlock: fold_block, LaurelDecoderBackbone: fold_backbone, LaurelCausalLM: fold_causal_lm})

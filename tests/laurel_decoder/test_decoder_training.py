"""Training of the decoder: what is computed, and that no way of running it changes what is learned."""

import itertools

import keras
import numpy as np
import pytest
from decoders import VARIANTS, backbone, causal_lm, random_tokens, randomize
from variants import assert_close, to_numpy

import keras_laurel
from keras_laurel.applications import LaurelDecoderBackbone


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_weight_moves_within_three_steps(variant):
    model, tokens = causal_lm(variant), random_tokens(batch_size=4)
    before = {w.path: to_numpy(w) for w in model.trainable_weights}
    model.compile(keras.optimizers.SGD(1.0), "sparse_categorical_crossentropy", weighted_metrics=[])
    for _ in range(3):
        model.train_on_batch(tokens, np.roll(tokens, -1, axis=1))
    still = [w.path for w in model.trainable_weights if np.array_equal(to_numpy(w), before[w.path])]
    assert not still


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.parametrize(
    ("settings", "compiled"),
    [
        ({"remat": True}, {}),
        ({}, {"jit_compile": False}),
        ({"remat": True}, {"jit_compile": False}),
        ({}, {"run_eagerly": True}),
    ],
)
def test_remat_and_compilation_change_no_training(settings, compiled):
    losses = []
    for kwargs, how in (({}, {}), (settings, compiled)):
        model, tokens = randomize(causal_lm("rw+lr+pa", **kwargs)), random_tokens(batch_size=4)
        model.compile(
            keras.optimizers.SGD(0.1), keras.losses.SparseCategoricalCrossentropy(True), weighted_metrics=[], **how
        )
        losses.append([float(model.train_on_batch(tokens, np.roll(tokens, -1, axis=1))) for _ in range(3)])
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    assert losses[0][2] < losses[0][0]


@pytest.mark.skipif(keras.backend.backend() != "torch", reason="torch.compile is PyTorch's.")
@pytest.mark.filterwarnings("ignore")  # of torch.compile
def test_torch_compile_makes_one_graph():
    import torch

    model, tokens = randomize(backbone("rw+lr+pa")), torch.tensor(random_tokens())
    outputs = to_numpy(model(tokens, training=True).detach())
    torch.compiler.reset()
    compiled = torch.compile(lambda tokens: model(tokens, training=True), fullgraph=True, backend="aot_eager")
    assert_close(to_numpy(compiled(tokens).detach()), outputs)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_accumulated_gradients_are_those_of_the_whole_batch():
    values = []
    for accumulate in (None, 2):
        model, tokens = randomize(causal_lm("rw+lr+pa")), random_tokens(batch_size=4)
        optimizer = keras.optimizers.SGD(0.1, gradient_accumulation_steps=accumulate)
        model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True), weighted_metrics=[])
        for part in [tokens] if accumulate is None else [tokens[:2], tokens[2:]]:
            model.train_on_batch(part, np.roll(part, -1, axis=1))
        values.append([to_numpy(w) for w in model.trainable_weights])
    for whole, parts in zip(*values):
        assert_close(parts, whole, 1e-5)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.parametrize("settings", [{"dropout": 0.5}, {"residual_arguments": {"drop_path": 0.5}}])
def test_dropping_is_on_in_fit_alone(settings):
    model, tokens = randomize(causal_lm("rw", **settings)), random_tokens(batch_size=4)
    plain = randomize(causal_lm("rw"))
    assert np.array_equal(to_numpy(model(tokens)), to_numpy(plain(tokens)))
    model.compile(keras.optimizers.SGD(0.0), keras.losses.SparseCategoricalCrossentropy(True), weighted_metrics=[])
    targets = np.roll(tokens, -1, axis=1)
    trained = float(model.train_on_batch(tokens, targets))
    model.reset_metrics()
    expected = np.mean(to_numpy(plain.score(tokens, None, "loss", target_ids=targets)))
    assert float(model.test_on_batch(tokens, targets)) == pytest.approx(expected, rel=1e-5)
    assert abs(trained - expected) > 1e-3


@pytest.mark.parametrize("settings", [{"dropout": 0.1}, {"residual_arguments": {"drop_path": 0.1}}])
def test_dropping_does_not_go_with_remat(settings):
    with pytest.raises(ValueError, match=r"no `dropout` and no `drop_path` with `remat`.* Received: remat=True"):
        backbone("rw", remat=True, **settings)


@pytest.mark.skipif(keras.backend.backend() == "jax", reason="The test below says more.")
def test_remat_is_of_each_block(monkeypatch):
    blocks = []
    monkeypatch.setattr(keras, "remat", lambda run: blocks.append(run) or run)
    backbone("rw", remat=True)(random_tokens())
    assert len(blocks) == 2


@pytest.mark.skipif(keras.backend.backend() == "tensorflow", reason="TensorFlow does not count what it computes")
@pytest.mark.parametrize(
    "joins",
    [
        "block",
        pytest.param(
            "sublayer", marks=pytest.mark.skipif(keras.backend.backend() != "jax", reason="See `LaurelDecoderBlock`.")
        ),
    ],
)
def test_remat_computes_blocks_again_but_no_branch_for_a_join(joins):
    plain, plain_again, again = (
        matmuls_of_gradient(backbone(residual=residual, joins=joins, remat=remat))
        for residual, remat in (("add", False), ("add", True), ("rw", True))
    )
    assert plain < plain_again == again


def matmuls_of_gradient(model):
    """Returns how many matmuls the gradient takes, or under PyTorch how many operations they have."""
    tokens = random_tokens()
    if keras.backend.backend() == "torch":
        from torch.utils.flop_counter import FlopCounterMode

        with FlopCounterMode(display=False) as counter:
            model(tokens, training=True).sum().backward()
        return counter.get_total_flops()
    import jax

    def loss(trainable):
        outputs, _ = model.stateless_call(trainable, model.non_trainable_variables, tokens, training=True)
        return outputs.sum()

    gradient = jax.jit(jax.grad(loss)).lower([weight.value for weight in model.trainable_variables])
    return gradient.as_text().count("dot_general")


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="Only JAX's training projects ahead.")
@pytest.mark.parametrize(("joins", "num_layers"), [("sublayer", 3), ("block", 2)])
def test_states_projected_ahead_change_no_gradient_and_save_matmuls(joins, num_layers, monkeypatch):
    import jax

    model, tokens = randomize(backbone("rw+lr+pa", joins=joins, num_layers=num_layers)), random_tokens()

    def found():
        def loss(trainable):
            outputs, _ = model.stateless_call(trainable, model.non_trainable_variables, tokens, training=True)
            return (outputs**2).mean()

        return jax.value_and_grad(loss)([weight.value for weight in model.trainable_variables])

    ahead, few = found(), matmuls_of_gradient(model)
    monkeypatch.setattr(LaurelDecoderBackbone, "_projects_ahead", False)
    apart, many = found(), matmuls_of_gradient(model)
    for ours, theirs in zip(jax.tree.leaves(ahead), jax.tree.leaves(apart)):
        assert_close(ours, theirs)
    assert few < many


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"residual": "rw+lr+pa"}, True),
        ({"residual": "rw+lr+pa", "remat": True}, False),
        ({"residual": "rw+lr+pa", "num_activations": 1}, False),
        ({"residual": "rw+lr+pa", "residual_arguments": {"previous": "first"}}, False),
        ({"residual": "rw+lr+pa", "residual_arguments": {"residual_weights": "free"}}, False),
        ({"residual": "rw+lr"}, False),
        ({"residual": "pa"}, False),
        ({"residual": "add"}, False),
    ],
)
def test_what_is_projected_ahead(arguments, expected):
    assert backbone(**arguments)._projects_ahead == (expected and keras.backend.backend() == "jax")


def test_joins_of_several_ranks_are_not_projected_ahead():
    ranks = itertools.count(1)
    joins = backbone(residual=lambda rank, **kwargs: keras_laurel.Laurel(rank=next(ranks), num_activations=2, **kwargs))
    assert not joins._projects_ahead

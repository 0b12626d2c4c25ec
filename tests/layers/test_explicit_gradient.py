"""What the written-out gradient keeps, and that it is right where the contract does not look."""

from unittest import mock

import keras
import numpy as np
import pytest
from keras import ops
from variants import FLOAT32_TOLERANCE, VARIANTS, num_inputs, random_inputs, random_join, shape_of, to_numpy

if keras.backend.backend() not in ("tensorflow", "torch"):
    pytest.skip("JAX's gradient is another", allow_module_level=True)

from keras_laurel.layers import explicit_gradient

OWN = [name for name, config in VARIANTS.items() if name != "plain" and random_join(config)._has_explicit_gradient]


def choosing(own):
    """Returns a context in which joins have their own gradient, or plain differentiation."""
    return mock.patch.object(explicit_gradient, "is_wanted", return_value=own)


def gradients(join, inputs, cotangent, own, twice=False):
    """Returns the gradients of the weights and the inputs, or those of the squares of these gradients."""
    with choosing(own):
        return _gradients(join, inputs, cotangent, twice)


def _gradients(join, inputs, cotangent, twice):

    def squares(values):
        return ops.sum(ops.stack([ops.sum(ops.square(value)) for value in values]))

    if keras.backend.backend() == "torch":
        import torch

        leaves = [ops.convert_to_tensor(x).to(cotangent.dtype).detach().requires_grad_() for x in inputs]
        wanted = [*(weight.value for weight in join.trainable_weights), *leaves]
        first = torch.autograd.grad(join(leaves, training=True), wanted, cotangent, create_graph=twice)
        if not twice:
            return first
        return torch.autograd.grad(squares(first), wanted, allow_unused=True, materialize_grads=True)
    import tensorflow as tf

    leaves = [tf.cast(x, cotangent.dtype) for x in inputs]
    wanted = [*(weight.value for weight in join.trainable_weights), *leaves]
    with tf.GradientTape() as outer:
        outer.watch(leaves)
        with tf.GradientTape() as inner:
            inner.watch(leaves)
            y = join(leaves, training=True)
        first = inner.gradient(y, wanted, cotangent)
        total = squares(first)
    return outer.gradient(total, wanted, unconnected_gradients=tf.UnconnectedGradients.ZERO) if twice else first


@pytest.mark.parametrize("name", OWN)
@pytest.mark.parametrize("twice", [False, True], ids=["first", "second"])
def test_derivatives_equal_those_of_plain_differentiation(name, twice):
    config = {**VARIANTS[name], "drop_path": 0.0}
    inputs, join = random_inputs(config), random_join(config)
    cotangent = ops.convert_to_tensor(np.random.default_rng(2).normal(size=shape_of(config)).astype("float32"))
    own, plain = (gradients(join, inputs, cotangent, own, twice) for own in (True, False))
    for ours, theirs in zip(own, plain):
        scale = max(1.0, float(np.abs(to_numpy(theirs)).max()))
        np.testing.assert_allclose(to_numpy(ours) / scale, to_numpy(theirs) / scale, atol=16 * FLOAT32_TOLERANCE)


@pytest.mark.parametrize("name", OWN)
def test_half_precision_rounds_no_worse_than_plain_differentiation(name):
    config = {**VARIANTS[name], "drop_path": 0.0}
    arrays = np.random.default_rng(0).normal(size=(num_inputs(config) + 1, 64, 16, 4)).astype("float32")
    *inputs, cotangent = (to_numpy(ops.cast(ops.cast(array, "bfloat16"), "float32")) for array in arrays)
    half, whole = (random_join(config, dtype=dtype) for dtype in ("mixed_bfloat16", "float32"))
    exact = gradients(whole, inputs, ops.convert_to_tensor(cotangent), False)
    own, plain = (gradients(half, inputs, ops.cast(cotangent, "bfloat16"), own) for own in (True, False))
    # A bfloat16 number is off by up to 2**-8 of itself; alpha's gradient is made of `y`, larger than the branch.
    y = to_numpy(whole([ops.convert_to_tensor(x) for x in inputs]))
    larger = np.linalg.norm(y) / np.linalg.norm(inputs[1])
    bounds = [2**-8 * larger if weight.name == "logits" else 2**-7 for weight in half.trainable_weights]
    bounds += [2**-7] * len(inputs)
    leaves = [[to_numpy(ops.cast(leaf, "float32")) for leaf in values] for values in (own, plain, exact)]
    for bound, ours, theirs, true in zip(bounds, *leaves, strict=True):
        error, of_plain = (np.linalg.norm(value - true) / np.linalg.norm(true) for value in (ours, theirs))
        assert error <= max(of_plain, bound)


@pytest.mark.skipif(keras.backend.backend() != "torch", reason="TensorFlow does not tell what its tapes keep")
@pytest.mark.parametrize("name", [name for name in OWN if VARIANTS[name].get("residual_weights")])
def test_the_branch_is_not_kept(name):
    import torch

    config = {**VARIANTS[name], "drop_path": 0.0}
    inputs = [ops.convert_to_tensor(array).requires_grad_() for array in random_inputs(config)]
    join, kept = random_join(config), []
    with torch.autograd.graph.saved_tensors_hooks(kept.append, lambda tensor: tensor):
        join(inputs, training=True)
    branch = inputs[1].data_ptr()
    assert kept
    assert not any(tensor.data_ptr() == branch for tensor in kept)


@pytest.mark.skipif(keras.backend.backend() != "torch", reason="TensorFlow does not tell what its tapes keep")
@pytest.mark.parametrize("name", OWN)
def test_of_large_tensors_only_the_states_and_the_sum_are_kept(name):
    import torch

    config = {**VARIANTS[name], "drop_path": 0.0}
    inputs = [ops.cast(array, "bfloat16").requires_grad_() for array in random_inputs(config)]
    join, kept = random_join(config, dtype="mixed_bfloat16"), []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda tensor: (kept.append(tensor), tensor)[1], lambda tensor: tensor
    ):
        y = join(inputs, training=True)
    known = {tensor.data_ptr() for tensor in (*inputs, y)}
    assert {tensor.data_ptr() for tensor in kept if tensor.shape == y.shape} <= known


@pytest.mark.skipif(keras.backend.backend() != "torch", reason="of PyTorch")
def test_vmap_of_a_gradient():
    import torch

    join = random_join(VARIANTS["rw+lr+pa"])
    inputs = [ops.convert_to_tensor(array) for array in random_inputs(VARIANTS["rw+lr+pa"])]

    def loss(x):
        return (join([x[None], *(tensor[:1] for tensor in inputs[1:])], training=True) ** 2).sum()

    def gradient(own):
        with choosing(own):
            return torch.func.vmap(torch.func.grad(loss))(inputs[0])

    own, plain = gradient(True), gradient(False)
    np.testing.assert_allclose(to_numpy(own), to_numpy(plain), atol=16 * FLOAT32_TOLERANCE)


@pytest.mark.skipif(keras.backend.backend() != "torch", reason="of PyTorch")
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # torch.compile does so itself
@pytest.mark.parametrize("name", ["rw", "rw+pa", "lr+pa_first", "rw+lr+pa", "rw+lr+pa_norm"])
def test_torch_compile_makes_one_graph_where_a_state_stands_in_for_earlier_ones(name):
    import torch

    torch.compiler.reset()  # it gives up on the code of a function after a few versions
    join, (x, fx, *others) = random_join(VARIANTS[name]), map(ops.convert_to_tensor, random_inputs(VARIANTS[name]))
    inputs = [x.requires_grad_(), fx, *(x for _ in others)]
    compiled = torch.compile(lambda *inputs: join(list(inputs), training=True), fullgraph=True, backend="aot_eager")
    own = torch.autograd.grad(compiled(*inputs).sum(), x)
    with choosing(False):
        plain = torch.autograd.grad(join(inputs, training=True).sum(), x)
    np.testing.assert_allclose(to_numpy(own[0]), to_numpy(plain[0]), atol=16 * FLOAT32_TOLERANCE)


@pytest.mark.skipif(keras.backend.backend() != "torch", reason="of PyTorch")
def test_what_is_computed_again_for_its_gradient_keeps_the_same():
    import torch
    from torch.utils.checkpoint import checkpoint

    join, inputs = random_join(VARIANTS["rw+lr"]), list(map(ops.convert_to_tensor, random_inputs(VARIANTS["rw+lr"])))
    inputs[0].requires_grad_()

    class Block(keras.layers.Layer):
        def call(self, *inputs):
            return join(list(inputs))  # which hears of training from the block, but only within its call

    class Checkpointed(keras.layers.Layer):
        def call(self, *inputs):
            return checkpoint(lambda *inputs: join(list(inputs)), *inputs, use_reentrant=False)

    ours, expected = (
        torch.autograd.grad(block(*inputs, training=True).sum(), inputs[0])[0] for block in (Checkpointed(), Block())
    )
    np.testing.assert_array_equal(to_numpy(ours), to_numpy(expected))


def test_a_quantized_map_trains_by_plain_differentiation():
    join = random_join({"residual_weights": "softmax", "rank": 2})
    for layer in (*join.augmentation.downs, join.augmentation.up):
        layer.quantize("int8")
    assert not join._has_explicit_gradient
    inputs = [np.ones((2, 3, 4), "float32")] * 2
    own, plain = (gradients(join, inputs, ops.ones((2, 3, 4)), own) for own in (True, False))
    for ours, theirs in zip(own, plain):
        np.testing.assert_array_equal(to_numpy(ours), to_numpy(theirs))

"""What holds for every engine, on every backend."""

import keras
import pytest

from keras_laurel.distribution import Distribution, distribute

BACKEND = keras.backend.backend()
on_jax = pytest.mark.skipif(BACKEND != "jax", reason="JAX does not ignore keras.distribution, nor lack kind='model'")
elsewhere = pytest.mark.skipif(BACKEND == "jax", reason="JAX does not ignore keras.distribution, nor lack kind='model'")


@pytest.fixture
def model():
    return keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"kind": "dada"},
            "Expected `kind` to be 'none', 'data', 'model' or such as 'model:2x4'. Received: kind='dada'",
        ),
        ({"kind": "data:2x4"}, "Received: kind='data:2x4'"),
        ({"kind": "model:2"}, "Received: kind='model:2'"),
        ({"kind": None}, "Received: kind=None"),
        ({"kind": "model:2x4", "mesh": (2, 4)}, r"the mesh once, .* Received: kind='model:2x4', mesh=\(2, 4\)"),
        ({"kind": "data", "mesh": (2, 4)}, r"a mesh with kind='model' alone. Received: kind='data', mesh=\(2, 4\)"),
    ],
)
def test_error_names_what_was_expected_and_received(arguments, message):
    with pytest.raises(ValueError, match=message):
        distribute(**arguments)


def test_none_is_one_process():
    distribution = distribute()
    assert (distribution.kind, distribution.num_replicas, distribution.num_processes) == ("none", 1, 1)
    assert distribution.is_chief
    assert distribution.data_shard == (0, 1)


def test_data_shard_is_the_process_unless_said():
    assert Distribution("data", num_processes=4, process=2).data_shard == (2, 4)
    assert Distribution("model", num_processes=4, process=2, data_shard=(1, 2)).data_shard == (1, 2)


def test_only_process_0_is_the_chief():
    assert [Distribution(num_processes=2, process=process).is_chief for process in range(2)] == [True, False]


@pytest.mark.parametrize("batch_size", [0, 7, 12])
def test_a_batch_that_does_not_divide_is_refused(batch_size):
    with pytest.raises(ValueError, match=f"a multiple of the 8 replicas. Received: batch_size={batch_size}"):
        Distribution("data", num_replicas=8).check_batch(batch_size)


def test_a_batch_that_divides_is_fine():
    Distribution("data", num_replicas=8).check_batch(16)


def test_a_wrapped_model_is_refused(model):
    class DistributedDataParallel:  # which keeps the model as `module`, and takes process groups to make
        module = model

    with pytest.raises(
        ValueError, match=r"drift apart silently. Received: model=DistributedDataParallel\(Sequential\)"
    ):
        distribute().prepare(DistributedDataParallel())


def test_what_is_no_model_is_refused():
    with pytest.raises(ValueError, match=r"Expected a Keras model\. Received: model='model'"):
        distribute().prepare("model")


@elsewhere
def test_dividing_weights_is_refused_where_keras_cannot():
    with pytest.raises(ValueError, match=rf"Expected kind='data' or 'none' on {BACKEND}.* Received: kind='model'"):
        distribute("model:1x1", layout_map=lambda mesh: keras.distribution.LayoutMap(mesh))


@pytest.fixture
def keras_distribution():
    """One that the user has set."""
    keras.distribution.set_distribution(keras.distribution.DataParallel(devices=["cpu:0"]))
    yield keras.distribution.distribution()
    keras.distribution.set_distribution(None)


@elsewhere
@pytest.mark.parametrize("kind", ["none", "data"])
def test_a_distribution_that_keras_would_ignore_is_refused(keras_distribution, kind):
    with pytest.raises(ValueError, match=f"on {BACKEND}, which would ignore it silently.* Received: <DataParallel"):
        distribute(kind)


@elsewhere
def test_a_distribution_that_keras_would_ignore_is_refused_when_set_later(model, keras_distribution):
    with pytest.raises(ValueError, match="which would ignore it silently"):
        Distribution().prepare(model)


@on_jax
def test_a_distribution_that_keras_takes_is_fine(model, keras_distribution):
    distribute().prepare(model)
    assert keras.distribution.distribution() is keras_distribution

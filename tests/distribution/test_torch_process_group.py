"""PyTorch: the processes of torchrun train as one process does, and end where they would not."""

import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
import torch
import training

from keras_laurel.distribution import Distribution, distribute, torch_process_group

JOBS = {
    **{variant: ["decoder", variant, {}] for variant in training.VARIANTS},
    "accumulated": ["decoder", "rw", {"accumulate": 2}],
    "compiled": ["linear", None, {"jit_compile": True, "validate": False}],
    "normed": ["normed", None, {}],
    "overflow": ["overflow", None, {}],
}

GONE = """
import os, sys, time
import keras
import numpy as np
from keras_laurel.distribution import distribute

distribution = distribute("data", timeout=5)
model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
model.compile("sgd", "mse")
distribution.prepare(model)

def leave(batch, logs):
    if batch == 1 and distribution.process == 1:
        if sys.argv[1] == "dies":
            os._exit(1)
        time.sleep(60)

leaving = keras.callbacks.LambdaCallback(on_train_batch_begin=leave)
model.fit(np.ones((8, 2)), np.ones((8, 1)), batch_size=2, verbose=0, callbacks=[leaving])
"""


def environment(**variables):
    return {**os.environ, "KERAS_BACKEND": "torch", "OMP_NUM_THREADS": "1", **variables}


def free_port():
    store = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True)
    return str(store.port)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """What each of two processes of torchrun has trained."""
    folder = tmp_path_factory.mktemp("torchrun")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*launch, training.__file__, str(folder / "{process}.json"), json.dumps(list(JOBS.values()))],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads((folder / f"{process}.json").read_text()) for process in (0, 1)]


@pytest.fixture
def alone(monkeypatch):
    """A process group of this process only."""
    for name, value in {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}.items():
        monkeypatch.setenv(name, value)
    yield distribute("data")
    torch.distributed.destroy_process_group()


def trained(results, job):
    return [result["trained"][list(JOBS).index(job)] for result in results]


@pytest.mark.parametrize("job", [*training.VARIANTS, "accumulated", "overflow"])
def test_two_processes_train_as_one_does(results, job, assert_equal_training):
    name, variant, kwargs = JOBS[job]
    expected = training.train(name, variant, Distribution(), **kwargs)
    for result in trained(results, job):
        assert_equal_training(result, expected)


def test_a_compiled_step_averages_too(results, assert_equal_training):
    expected = training.train("linear", None, Distribution(), validate=False)
    for result in trained(results, "compiled"):
        assert_equal_training(result, expected)


def test_batch_statistics_are_those_of_the_parts_and_moving_statistics_their_mean(results, assert_equal_training):
    first, second = trained(results, "normed")
    assert_equal_training(first, second)
    whole = training.train("normed", None, Distribution())
    np.testing.assert_allclose(first["weights"][2], whole["weights"][2], rtol=0, atol=1e-6)  # the moving mean
    assert np.max(np.abs(np.subtract(first["weights"][3], whole["weights"][3]))) > 1e-3  # the moving variance


def test_each_process_reads_its_part_and_one_is_the_chief(results):
    assert [result["shard"] for result in results] == [[0, 2], [1, 2]]
    assert [result["chief"] for result in results] == [True, False]
    assert results[0]["described"] == {"kind": "data", "mesh": None, "devices": 2, "replicas": 2, "processes": 2}


def test_models_that_differ_are_refused_in_every_process(results):
    for result in results:
        assert "variable 0 is ((1, 1), 'float32') in process 0 and ((1, 2), 'float32') in process 1" in result["odd"]


@pytest.mark.parametrize(
    ("how", "error"), [("dies", "Check the logs of the remote worker"), ("waits", "Timed out waiting 5000ms")]
)
def test_a_process_without_its_neighbour_raises(how, error):
    port = free_port()
    first, second = (
        subprocess.Popen(
            [sys.executable, "-c", GONE, how],
            env=environment(RANK=rank, WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=port),
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in "01"
    )
    try:
        _, printed = first.communicate(timeout=120)
    finally:
        for process in (first, second):
            process.kill()
            process.communicate()
    assert first.returncode == 1
    assert error in printed


def test_needs_torchrun():
    with pytest.raises(ValueError, match="Received: no variable RANK, WORLD_SIZE"):
        distribute("data")


def test_torchrun_needs_a_distribution(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="in each of the 2 processes of torchrun"):
        distribute("none")


def test_a_wrapped_model_is_refused(alone, small_model):
    model = small_model()
    for wrapped in (torch.nn.parallel.DistributedDataParallel(model), torch.nn.DataParallel(model)):
        with pytest.raises(ValueError, match="Expected the Keras model itself"):
            alone.prepare(wrapped)


def test_an_unbuilt_or_uncompiled_model_is_refused(alone):
    unbuilt = keras.Sequential([keras.layers.Dense(1)])
    unbuilt.compile("sgd", "mse")
    with pytest.raises(ValueError, match="built=False, compiled=True"):
        alone.prepare(unbuilt)
    with pytest.raises(ValueError, match="built=True, compiled=False"):
        alone.prepare(keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]))


@pytest.fixture
def averaged(monkeypatch):
    """The number of tensors of each averaging over the processes."""
    numbers = []
    monkeypatch.setattr(torch_process_group, "_average", lambda tensors: numbers.append(len(tensors)))
    return numbers


def fit(model, steps=1):
    return model.fit(np.ones((2 * steps, 2)), np.ones((2 * steps, 1)), batch_size=2, verbose=0)


def test_gradients_are_averaged_once_a_step_however_often_prepared(alone, small_model, averaged):
    model = small_model()
    alone.prepare(model)
    alone.prepare(model)
    fit(model, steps=3)
    assert averaged == [2, 2, 2]


def test_gradients_that_keras_averages_are_left_alone(alone, small_model, averaged):
    model = small_model()
    model.ddp_model = None  # as Keras 3.16 has it
    alone.prepare(model)
    fit(model)
    assert averaged == [0]
    assert "get_metrics_result" not in vars(model)


def test_a_model_compiled_again_must_be_prepared_again(alone, small_model):
    model = small_model()
    alone.prepare(model)
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match="after each `compile`"):
        fit(model)


def test_a_prepared_model_is_saved_like_any_other(alone, small_model, tmp_path):
    model = small_model()
    alone.prepare(model)
    fit(model)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    for ours, theirs in zip(loaded.get_weights(), model.get_weights()):
        np.testing.assert_array_equal(ours, theirs)
    assert fit(loaded).history["loss"] == fit(model).history["loss"]


def test_keras_has_no_synchronized_batch_norm_here():
    with pytest.raises(ValueError, match="only supported with the TensorFlow backend"):
        keras.layers.BatchNormalization(synchronized=True)

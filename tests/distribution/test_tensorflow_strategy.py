"""TensorFlow: replicas on several devices train as one device does."""

import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
import training

from keras_laurel.distribution import Distribution, distribute

# The recipe's tests train a ResNet over two devices.
JOBS = [("decoder", "rw+lr+pa", {"validate": False}), ("strings", None, {"validate": False})]
JOBS += [("linear", None, {}), ("overflow", None, {})]
SLOW_JOBS = [(name, variant, {"validate": False}) for name in ("decoder", "resnet") for variant in training.VARIANTS]


def run(path, cpus, jobs):
    """Returns what a process with so many CPU devices has trained; TensorFlow takes their number before it starts."""
    done = subprocess.run(
        [sys.executable, training.__file__, str(path), json.dumps(jobs)],
        env={**os.environ, "KERAS_BACKEND": "tensorflow", "CPUS": str(cpus)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(path.read_text())


@pytest.fixture(scope="module")
def on_two(tmp_path_factory):
    return run(tmp_path_factory.mktemp("two") / "result.json", 2, JOBS)


def assert_trained_as_on_one(results, jobs, check):
    for result, (name, variant, kwargs) in zip(results["trained"], jobs, strict=True):
        check(result, training.train(name, variant, Distribution(), **kwargs))


def test_two_devices_train_as_one_does(on_two, assert_equal_training):
    assert_trained_as_on_one(on_two, JOBS, assert_equal_training)


@pytest.mark.slow
def test_two_devices_train_every_variant_as_one_does(tmp_path, assert_equal_training):
    assert_trained_as_on_one(run(tmp_path / "result.json", 2, SLOW_JOBS), SLOW_JOBS, assert_equal_training)


@pytest.mark.slow
def test_four_devices_train_as_one_does(tmp_path, assert_equal_training):
    jobs = [(name, "rw+lr+pa", {"validate": False}) for name in ("decoder", "resnet")]
    on_four = run(tmp_path / "result.json", 4, jobs)
    assert on_four["described"] == {"kind": "data", "mesh": None, "devices": 4, "replicas": 4, "processes": 1}
    assert_trained_as_on_one(on_four, jobs, assert_equal_training)


def test_one_process_reads_all_data(on_two):
    assert on_two["shard"] == [0, 1]
    assert on_two["chief"]


def test_several_workers_are_refused(monkeypatch):
    cluster = {"worker": ["127.0.0.1:1", "127.0.0.1:2"]}
    monkeypatch.setenv("TF_CONFIG", json.dumps({"cluster": cluster, "task": {"type": "worker", "index": 0}}))
    with pytest.raises(ValueError, match="`fit` of Keras 3 fails under `MultiWorkerMirroredStrategy`"):
        distribute("data")


def test_a_tpu_is_taken_where_there_is_one(monkeypatch):
    class Strategy:
        num_replicas_in_sync = 8

        def __init__(self, resolver):
            self.resolver = resolver

    monkeypatch.setenv("TPU_NAME", "local")
    monkeypatch.setattr(tf.distribute, "TPUStrategy", Strategy)
    monkeypatch.setattr(tf.distribute.cluster_resolver.TPUClusterResolver, "connect", "resolved {}".format)
    distribution = distribute("data")
    assert distribution.strategy.resolver == "resolved local"
    assert distribution.num_replicas == 8


def test_a_model_from_outside_the_scope_is_refused(small_model):
    with pytest.raises(ValueError, match=r"made in `distribution.scope\(\)`"):
        distribute("data").prepare(small_model())


def test_an_uncompiled_model_is_refused():
    distribution = distribute("data")
    with distribution.scope():
        model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    with pytest.raises(ValueError, match="Expected a compiled model"):
        distribution.prepare(model)


def test_xla_is_refused(small_model):
    distribution = distribute("data")
    with distribution.scope():
        model = small_model(jit_compile=True)
    with pytest.raises(ValueError, match="Received: jit_compile=True"):
        distribution.prepare(model)


@pytest.mark.parametrize("scaled", [False, True])
def test_gradient_accumulation_is_refused(small_model, scaled):
    distribution = distribute("data")
    with distribution.scope():
        model = small_model()
        optimizer = keras.optimizers.SGD(gradient_accumulation_steps=2)
        model.compile(keras.optimizers.LossScaleOptimizer(optimizer) if scaled else optimizer, "mse")
    with pytest.raises(ValueError, match="Received: gradient_accumulation_steps=2"):
        distribution.prepare(model)


def test_a_preprocessor_of_others_is_refused(small_model):
    distribution = distribute("data")
    with distribution.scope():
        model = small_model()
    model.preprocessor = keras.layers.Identity()
    with pytest.raises(ValueError, match="the masks of keras_hub's own are bools"):
        distribution.prepare(model)


def test_a_prepared_batch_norm_is_synchronized_and_saved_as_it_was_made(tmp_path):
    distribution = distribute("data")
    with distribution.scope():
        inner = keras.Sequential([keras.Input((2,)), keras.layers.BatchNormalization()])
        model = keras.Sequential([keras.Input((2,)), inner, keras.layers.BatchNormalization(synchronized=True)])
        model.compile("sgd", "mse")
    distribution.prepare(model)
    assert [layer.synchronized for layer in (*inner.layers, model.layers[-1])] == [True, True]
    model.fit(np.ones((4, 2)), np.ones((4, 2)), verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert [layer.synchronized for layer in (*loaded.layers[0].layers, loaded.layers[-1])] == [False, True]

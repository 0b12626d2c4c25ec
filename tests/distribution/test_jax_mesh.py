"""JAX: models train over a mesh of devices and processes as they do on one device, and what would not is refused."""

import json
import os
import socket
import subprocess
import sys
import types

import jax
import keras
import mesh_training
import numpy as np
import pytest
from processes import run_python

from keras_laurel.distribution import distribute, jax_mesh


@pytest.fixture(autouse=True)
def _no_distribution():
    yield
    keras.distribution.set_distribution(None)


def start(path, name, variants, kinds, devices=8, **environment):
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    return subprocess.Popen(
        [sys.executable, mesh_training.__file__, name, json.dumps(variants), json.dumps(kinds), str(path)],
        env={**os.environ, "KERAS_BACKEND": "jax", "XLA_FLAGS": flags, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process):
    out, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors
    return json.loads(out.splitlines()[-1])


@pytest.mark.parametrize(
    "variants", [["rw+lr+pa"], pytest.param(["add", "rw", "lr", "pa", "rw+lr"], marks=pytest.mark.slow)]
)
@pytest.mark.parametrize(
    ("name", "divided", "expected"),
    [
        ("decoder", 15, {"transformer_layer_0/attention/query/kernel": [[8, 4, 2], [4, 1, 2]]}),
        (
            "resnet",
            13,
            {"conv2_block1_2_conv/kernel": [[3, 3, 4, 4], [3, 3, 4, 1]], "predictions/kernel": [[16, 16], [4, 16]]},
        ),
    ],
)
def test_each_variant_trains_over_a_mesh_as_on_one_device(name, divided, expected, variants, tmp_path):
    results = finish(start(tmp_path / "model.weights.h5", name, variants, ["none", "data", "model:2x4"]))
    for variant in variants:
        one, data, model = (results[f"{variant} {kind}"] for kind in ("none", "data", "model:2x4"))
        for found in (data, model):
            np.testing.assert_allclose(found["losses"], one["losses"], rtol=1e-5, err_msg=variant)
            assert (one["devices"], found["devices"]) == (1, 8)
        assert all(whole == own for whole, own in data["shards"].values())
        assert sum(whole != own for whole, own in model["shards"].values()) == divided
        assert {path: model["shards"][path] for path in expected} == expected
    for kind in ("none", "data", "model:2x4"):
        np.testing.assert_allclose(results["outputs"][kind], results["outputs"]["written"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["data", pytest.param("model:2x4", marks=pytest.mark.slow)])
def test_two_processes_train_as_one(kind, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    environments = [dict(zip(jax_mesh.ENVIRONMENT, (address, "2", str(process)))) for process in range(2)]
    running = [
        start(tmp_path / "two.weights.h5", "decoder", ["rw+lr+pa"], [kind], devices=4, **environment)
        for environment in environments
    ]
    running.append(start(tmp_path / "one.weights.h5", "decoder", ["rw+lr+pa"], ["none"], devices=1))
    first, second, whole = map(finish, running)
    for index, found in enumerate((first, second)):
        losses = found[f"rw+lr+pa {kind}"]["losses"]
        np.testing.assert_allclose(losses, whole["rw+lr+pa none"]["losses"], rtol=1e-5)
        if kind == "data":  # what the first has written, both have read
            np.testing.assert_allclose(found["outputs"][kind], found["outputs"]["written"], rtol=1e-6)
        assert found["shard"] == [index, 2]
        assert (found["described"]["devices"], found["described"]["processes"]) == (8, 2)


REFUSED = """
import json, os
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=4"
import keras
import keras_laurel
from keras_laurel.applications import LaurelDecoderBackbone
from keras_laurel.distribution import distribute

def decoder(heads=4, rank=2):
    return LaurelDecoderBackbone(8, 1, heads, 8, 8, residual="lr", rank=rank)

def with_rank_divided(mesh):
    layout = keras.distribution.LayoutMap(mesh)
    layout[".*low_rank/down_0/kernel"] = (None, "model")
    return layout

def with_three_axes(mesh):
    layout = keras.distribution.LayoutMap(mesh)
    layout[".*token_embedding/embeddings"] = ("model", None, None)
    return layout

def message(layout_map, build, kind="model:1x4"):
    try:
        distribution = distribute(kind, layout_map=layout_map)
        distribution.prepare(build())
    except ValueError as error:
        return str(error)
    finally:
        keras.distribution.set_distribution(None)

before = decoder()
layout = LaurelDecoderBackbone.get_layout_map
print(json.dumps({
    "before": message(layout, lambda: before, "model:2x2"),
    "before data": message(None, lambda: before, "data"),
    "heads": message(layout, lambda: decoder(heads=2)),
    "rank": message(with_rank_divided, decoder),
    "axes": message(with_three_axes, decoder),
    "fits": message(layout, decoder),
}))
"""


def test_a_weight_that_does_not_fit_the_mesh_is_refused_by_name():
    messages = json.loads(run_python(REFUSED, backend="jax").splitlines()[-1])
    assert messages.pop("fits") is None
    for case, part in {
        "before": "made after `distribute`, with all its weights on the mesh. Received: weight 'token_embedding/",
        "before data": "made after `distribute`, with all its weights on the mesh. Received: weight 'token_embedding/",
        "heads": "dimension 1 of the weight 'transformer_layer_0/attention/query/kernel' to be a multiple of the "
        "mesh's axis 'model', which has 4 devices. Received: shape=(8, 2, 4)",
        "rank": "low_rank/down_0/kernel' to be a multiple of the mesh's axis 'model', which has 4 devices. "
        "Received: shape=(8, 2)",
        "axes": "at most 2 dimensions for the weight 'token_embedding/embeddings'",
    }.items():
        assert part in messages[case], case


def layout_of(**layouts):
    def layout_map(mesh):
        layout = keras.distribution.LayoutMap(mesh)
        for key, axes in layouts.items():
            layout[f".*{key}/kernel"] = axes
        return layout

    return layout_map


def two_layers():
    return keras.Sequential([keras.Input((4,)), keras.layers.Dense(4, name="a"), keras.layers.Dense(3, name="b")])


def test_a_large_weight_without_a_key_is_refused_by_name():
    distribution = distribute("model:1x1", layout_map=layout_of(a=(None, "model"), bb=(None, "model")))
    with pytest.raises(ValueError, match=r"no key for 1 weights, .*/b/kernel'; .* no weight: \['\.\*bb/kernel'\]"):
        distribution.prepare(two_layers())


def test_a_weight_may_be_meant_to_be_on_every_device():
    distribution = distribute("model:1x1", layout_map=layout_of(a=(None, "model"), b=()))
    distribution.prepare(two_layers())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"layout_map": layout_of()}, "a pair of positive integers .* Received: mesh=None"),
        ({"mesh": (0, 1), "layout_map": layout_of()}, r"Received: mesh=\(0, 1\)"),
        ({"mesh": (1, 1)}, "LaurelDecoderBackbone.get_layout_map.* Received: layout_map=None"),
        ({"mesh": (2, 4), "layout_map": layout_of()}, r"the 1 devices that there are. Received: mesh=\(2, 4\)"),
    ],
)
def test_error_names_what_a_model_mesh_needs(arguments, message):
    with pytest.raises(ValueError, match=message):
        distribute("model", **arguments)


def test_processes_are_connected_before_a_device_is_used(monkeypatch):
    jax.devices()
    for name, value in zip(jax_mesh.ENVIRONMENT, ("127.0.0.1:1", "1", "0")):
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match="Call `distribute` before anything uses a device"):
        distribute("data")


@pytest.fixture
def tpu(monkeypatch):
    """Makes JAX say that it is on a TPU of some processes, which it cannot connect."""

    def fake(processes):
        distributed = types.SimpleNamespace(is_initialized=lambda: False)
        config = types.SimpleNamespace(jax_platforms="tpu,cpu", update=lambda name, value: None)
        names = types.SimpleNamespace(distributed=distributed, config=config, process_count=lambda: processes)
        monkeypatch.setattr(jax_mesh, "jax", names)

        def initialize():
            raise ValueError("coordinator_address should be defined.")

        monkeypatch.setattr(keras.distribution, "initialize", initialize)

    return fake


def test_a_single_tpu_machine_needs_no_connection(tpu):
    tpu(processes=1)
    jax_mesh._connect_processes()


def test_a_tpu_pod_that_is_not_connected_is_refused(tpu):
    tpu(processes=4)
    with pytest.raises(ValueError, match=r"could not be connected.* no such variables; coordinator_address"):
        jax_mesh._connect_processes()


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([[0, 0], [1, 1]], [(0, 2), (1, 2)]),
        ([[0], [1], [0], [1]], [(0, 2), (1, 2)]),
        ([[0, 1], [0, 1], [2, 3], [2, 3]], [(0, 2), (0, 2), (1, 2), (1, 2)]),  # a TPU v5e 4x4 in part
        ([[0, 1]], [(0, 1), (0, 1)]),
    ],
)
def test_processes_that_share_replicas_read_the_same_data(rows, expected):
    assert [jax_mesh._data_shard(rows, process) for process in range(len(expected))] == expected


def test_replicas_that_are_spread_unevenly_are_refused():
    with pytest.raises(ValueError, match="3 replicas are spread evenly over the 2 processes"):
        jax_mesh._data_shard([[0, 0], [0, 1], [1, 1]], 0)

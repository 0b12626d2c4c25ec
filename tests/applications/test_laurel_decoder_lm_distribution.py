"""Runs of the decoder over devices and processes are the run of one device, and go on under any other distribution."""

import csv
import dataclasses
import json

import keras
import numpy as np
import pytest
from typer.testing import CliRunner

from applications.errors import UserError
from applications.laurel_decoder_lm import __main__ as cli
from applications.laurel_decoder_lm import configs, train
from applications.laurel_decoder_lm.loading import load_model
from keras_laurel.distribution import Distribution
from tests.applications.distributed_runs import assert_run, run_command, run_jobs

BACKEND = keras.backend.backend()
RECIPE = "laurel_decoder_lm"

# Each of two shards fills half of a batch. The last batch of the held-out documents is partly padding.
SMALL = dataclasses.replace(
    configs.SMOKE,
    context=8,
    batch_size=8,
    shards=2,
    steps=8,
    num_layers=1,
    hidden_dim=8,
    num_heads=4,
    intermediate_dim=8,
    tokenizer="bpe:260",
    residual="rw+lr+pa",
    num_activations=2,
    learning_rate=0.02,
    held_out=0.0005,
    evaluate_batches=None,
)
CONFIG = dataclasses.asdict(SMALL)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The folder of the run of one device."""
    folder = tmp_path_factory.mktemp("alone") / "run"
    train.run(SMALL, folder, {})
    return folder


def losses(folder, name="losses.csv"):
    with open(folder / name, newline="") as file:
        return [float(row["loss"]) for row in csv.DictReader(file)]


def record(folder):
    return json.loads((folder / "result.json").read_text())


def assert_equal_runs(folder, alone):
    for name in ("losses.csv", "held_out.csv"):
        np.testing.assert_allclose(losses(folder, name), losses(alone, name), atol=1e-5, rtol=0)
    assert sorted(path.name for path in folder.iterdir()) == sorted(path.name for path in alone.iterdir())
    for ours, theirs in zip(load_model(folder).weights, load_model(alone).weights, strict=True):
        np.testing.assert_allclose(ours.numpy(), theirs.numpy(), atol=1e-4, rtol=0, err_msg=ours.path)


if BACKEND == "jax":  # model parallelism is JAX's

    def test_a_run_under_a_mesh_goes_on_under_another_and_under_none(alone, tmp_path):
        kinds = ("model:2x4", "data", "none")
        job = {"config": CONFIG, "folder": tmp_path / "run", "kind": "model:2x4", "stop": 6}
        on = [
            {"config": CONFIG, "folder": tmp_path / kind, "kind": kind, "copy_of": tmp_path / "run"} for kind in kinds
        ]
        assert_run(RECIPE, [job, *on], backend=BACKEND, devices=8)
        for kind in kinds:
            assert_equal_runs(tmp_path / kind, alone)
        assert [record(tmp_path / kind)["distribution"]["mesh"] for kind in kinds] == [
            {"batch": 2, "model": 4},
            {"batch": 8},
            None,
        ]


if BACKEND != "tensorflow":  # which has one process

    @pytest.mark.parametrize(
        "process", [pytest.param(0, marks=pytest.mark.slow_on("jax")), pytest.param(1, marks=pytest.mark.slow)]
    )
    def test_a_run_of_two_processes_of_which_one_dies_goes_on(process, alone, tmp_path):
        kind, devices = ("model:2x2", 2) if BACKEND == "jax" else ("data", 1)
        job = {"config": CONFIG, "folder": tmp_path, "kind": kind}
        died = run_jobs(RECIPE, [{**job, "stop": 6, "kill": process}], backend=BACKEND, devices=devices, processes=2)
        assert all(done.returncode != 0 for done in died)
        assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000004.npz"]
        assert not (tmp_path / "result.json").exists()
        assert_run(RECIPE, [job], backend=BACKEND, devices=devices, processes=2)
        assert record(tmp_path)["distribution"]["processes"] == 2
        assert_equal_runs(tmp_path, alone)


if BACKEND == "tensorflow":  # the others are tested above

    def test_a_run_over_the_devices_of_tensorflow_goes_on_under_none(alone, tmp_path):
        job = {"config": CONFIG, "folder": tmp_path, "kind": "data"}
        assert_run(RECIPE, [{**job, "stop": 6}, {**job, "kind": "none"}], backend=BACKEND, devices=2)
        assert record(tmp_path)["distribution"]["devices"] == 1
        assert_equal_runs(tmp_path, alone)


@pytest.mark.slow_on("tensorflow", "torch")
def test_the_command_runs_over_what_there_is(tmp_path):
    arguments = ("--smoke", "--distribution", "data", "--out", tmp_path / "run")
    done = run_command(RECIPE, "train", *arguments, backend=BACKEND)
    assert done.returncode == 0, done.stdout
    assert record(tmp_path / "run")["distribution"]["replicas"] == 2
    assert done.stdout.count("written: ") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--distribution", "near"], "Received: kind='near'"),
        (["--distribution", "model:3x5"], "Received: mesh=(3, 5)" if BACKEND == "jax" else "KERAS_BACKEND=jax"),
    ],
)
def test_a_distribution_that_is_not_there_is_refused(arguments, message, tmp_path):
    outcome = CliRunner().invoke(cli.app, ["train", "--smoke", *arguments, "--out", str(tmp_path / "run")])
    assert outcome.exit_code == 2
    assert message in outcome.stderr
    assert not (tmp_path / "run").exists()


def test_a_batch_that_does_not_divide_is_refused_before_anything_is_made(tmp_path):
    with pytest.raises(UserError, match=r"multiple of the 3 replicas. Received: batch_size=8"):
        train.run(SMALL, tmp_path / "run", {}, Distribution("data", num_replicas=3))
    assert not (tmp_path / "run").exists()


def test_what_a_distribution_refuses_of_a_model_is_said(tmp_path):
    class Refusing(Distribution):
        def prepare(self, model):
            raise ValueError("Expected another optimizer")

    with pytest.raises(UserError, match="Expected another optimizer"):
        train.run(SMALL, tmp_path, {}, Refusing())


class Another(Distribution):
    """The second of two processes, whose chief is somewhere else."""

    def __init__(self):
        super().__init__("data", num_replicas=2, num_processes=2, process=1)


def test_a_process_that_cannot_see_the_folder_says_so(tmp_path):
    with pytest.raises(UserError, match=r"process 1 cannot see .*: all processes need one --out"):
        train.run(SMALL, tmp_path / "run", {}, Another())
    assert not (tmp_path / "run").exists()


def test_processes_that_see_other_checkpoints_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(train, "gathered", lambda distribution, value: ["step-00000004.npz", value])
    with pytest.raises(UserError, match=r"see different checkpoints: step-00000004\.npz, None; all need one --out"):
        train.run(SMALL, tmp_path, {})

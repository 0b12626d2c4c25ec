"""Runs of the ResNet over devices are the run of one device, and go on under any other distribution."""

import dataclasses
import json

import keras
import numpy as np
import pytest
from typer.testing import CliRunner

from applications.errors import UserError
from applications.laurel_resnet50 import __main__ as cli
from applications.laurel_resnet50 import configs, sources, train
from keras_laurel.distribution import Distribution
from tests.applications.distributed_runs import assert_run, run_command

BACKEND = keras.backend.backend()
RECIPE = "laurel_resnet50"

# The held-out images fill one batch and a half.
SMALL = dataclasses.replace(
    configs.SMOKE,
    held_out=12,
    train_images=32,
    test_images=10,
    batch_size=8,
    parts=2,
    num_blocks=(1, 1),
    filters=(4, 4),
    rank=2,
    ema=0.5,
)
CONFIG = dataclasses.asdict(SMALL)
KINDS = {"jax": ("model:2x2", "none"), "tensorflow": ("data", "none"), "torch": ("data", "data")}[BACKEND]
# The decoder's run says it on these, and a small network in `distribution`.
of_a_run = pytest.mark.slow_on("jax", "tensorflow")


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The folder of the run of one device."""
    folder = tmp_path_factory.mktemp("alone") / "run"
    train.run(SMALL, folder, {})
    return folder


@pytest.fixture(scope="module")
def spread(tmp_path_factory):
    """The folder of a run that stopped after its first part, and went on under another distribution."""
    folder = tmp_path_factory.mktemp("spread") / "run"
    jobs = [{"config": CONFIG, "folder": folder, "kind": kind} for kind in KINDS]
    jobs[0]["stop"] = 1
    devices = {"jax": {"devices": 4}, "tensorflow": {"devices": 2}, "torch": {"processes": 2}}[BACKEND]
    assert_run(RECIPE, jobs, backend=BACKEND, **devices)
    return folder


def record(folder):
    return json.loads((folder / "result.json").read_text())


if BACKEND != "torch":  # its processes normalize their parts of a batch apart

    @of_a_run
    def test_a_run_over_devices_that_goes_on_under_none_is_that_of_one_device(alone, spread):
        ours, theirs = record(spread), record(alone)
        for key in ("loss", "val_loss", "val_accuracy", "val_cross_entropy"):
            values = [[row[key] for row in each["epochs"]] for each in (ours, theirs)]
            np.testing.assert_allclose(*values, atol=1e-5, rtol=1e-5, err_msg=key)
        assert ours["test"] == pytest.approx(theirs["test"], abs=1e-5, rel=1e-5)


@of_a_run
def test_the_chief_alone_writes(alone, spread):
    assert sorted(path.name for path in spread.iterdir()) == sorted(path.name for path in alone.iterdir())
    assert [row["epoch"] for row in record(spread)["epochs"]] == [0, 1]
    assert record(spread)["distribution"]["kind"] == KINDS[-1]


@of_a_run
def test_an_evaluation_is_that_of_one_process(spread):
    images = sources.load_images(SMALL)
    model = train.compiled(SMALL, images)
    model.optimizer.build(model.trainable_variables)
    model.load_weights(spread / "last.weights.h5")
    found = train._evaluated(model, images.test, images, SMALL, Distribution())
    assert record(spread)["test"] == pytest.approx(found, abs=1e-5, rel=1e-5)


@pytest.mark.slow  # the decoder's command does the same, by the same function
def test_the_command_runs_over_what_there_is(tmp_path):
    arguments = ("--smoke", "--set", "num_blocks=1,1,1,1", "--set", "filters=4,4,4,4", "--set", "rank=2")
    arguments = ("train", *arguments, "--distribution", "data", "--out", tmp_path / "run")
    done = run_command(RECIPE, *arguments, backend=BACKEND)
    assert done.returncode == 0, done.stdout
    assert record(tmp_path / "run")["distribution"]["replicas"] == 2
    assert done.stdout.count("written: ") == 1


def test_a_distribution_that_is_not_there_is_refused(tmp_path):
    arguments = ["train", "--smoke", "--distribution", "model:3x5", "--out", str(tmp_path / "run")]
    outcome = CliRunner().invoke(cli.app, arguments)
    assert outcome.exit_code == 2
    assert ("Received: mesh=(3, 5)" if BACKEND == "jax" else "KERAS_BACKEND=jax") in outcome.stderr


@pytest.mark.parametrize(
    ("distribution", "message"),
    [
        (Distribution("data", num_replicas=3), r"multiple of the 3 replicas. Received: batch_size=8"),
        (Distribution("model", num_replicas=2, num_processes=2), "over the devices of one process alone"),
    ],
)
def test_what_cannot_be_divided_is_refused_before_anything_is_made(distribution, message, tmp_path):
    with pytest.raises(UserError, match=message):
        train.run(SMALL, tmp_path / "run", {}, distribution=distribution)
    assert not (tmp_path / "run").exists()

"""Runs that are killed, stopped or out of disk end as one that was not."""

import csv
import dataclasses
import errno
import json
import os
import random
import signal
import subprocess
import sys

import keras
import numpy as np
import pytest

from applications.errors import UserError
from applications.files import write_json
from applications.laurel_decoder_lm import checkpoints, configs, train
from applications.laurel_decoder_lm.loading import load_model

# The parts are of 2 steps. The checkpoints at 4 and 8 are in the middle of an accumulation, and the run ends off beat.
SMALL = dataclasses.replace(
    configs.SMOKE,
    context=8,
    batch_size=2,
    steps=13,
    accumulate=3,
    num_layers=1,
    hidden_dim=8,
    num_heads=2,
    intermediate_dim=8,
    residual="rw+lr+pa",
    num_activations=2,
    dropout=0.1,
    learning_rate=0.05,
    evaluate_every=6,
    evaluate_batches=1,
    checkpoint_every=4,
    sample_every=0,
)

CHILD = """
import json, os, signal, sys
import numpy as np
from applications.laurel_decoder_lm import callbacks, checkpoints, configs, train

folder, at, where = sys.argv[1], int(sys.argv[2]), sys.argv[3]
record, save, savez = callbacks.Recorder.on_train_batch_end, checkpoints.Checkpoints.save, np.savez

def record_or_die(self, batch, logs=None):
    record(self, batch, logs)
    if where == "step" and self.history.step + batch + 1 == at:
        os.kill(os.getpid(), signal.SIGKILL)

def save_or_die(self, step, *arguments):
    if where == "save" and step == at:
        np.savez = half
    save(self, step, *arguments)

def half(path, **arrays):
    savez(path, **arrays)
    os.truncate(path, os.path.getsize(path) // 2)
    os.kill(os.getpid(), signal.SIGKILL)

callbacks.Recorder.on_train_batch_end, checkpoints.Checkpoints.save = record_or_die, save_or_die
train.run(configs.Config(**json.load(open(folder + ".json"))), folder, {})
"""


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "run"
    train.run(SMALL, folder, {})
    return folder


def rows(path):
    with open(path, newline="") as file:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]


def assert_equal_runs(folder, whole):
    for name in ("losses.csv", "held_out.csv"):
        ours, theirs = rows(folder / name), rows(whole / name)
        assert [row["step"] for row in ours] == [row["step"] for row in theirs]
        np.testing.assert_allclose([row["loss"] for row in ours], [row["loss"] for row in theirs], atol=1e-6, rtol=0)
    for ours, theirs in zip(load_model(folder).weights, load_model(whole).weights):
        np.testing.assert_allclose(ours.numpy(), theirs.numpy(), atol=1e-6, rtol=0, err_msg=ours.path)


def killed(folder, step, where):
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(folder), str(step), where],
        env={**os.environ, "KERAS_BACKEND": keras.backend.backend()},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr


@pytest.mark.slow_on("jax", "tensorflow")  # where the runs over devices, and of the ResNet, stop and go on
def test_a_run_that_is_killed_ends_as_one_that_is_not(whole, tmp_path):
    folder = tmp_path / "run"
    write_json(tmp_path / "run.json", dataclasses.asdict(SMALL))
    step = random.SystemRandom().randrange(1, 13)
    print("killed at step", step)
    killed(folder, step, "step")
    killed(folder, 12, "save")
    assert [path.name for path in checkpoints.Checkpoints(folder / "checkpoints").paths()] == [
        "step-00000004.npz",
        "step-00000008.npz",
    ]
    train.run(SMALL, folder, {})
    assert_equal_runs(folder, whole)


@pytest.mark.slow_on("jax", "tensorflow")
def test_a_full_disk_loses_nothing(whole, tmp_path, monkeypatch):
    def full(path, **arrays):
        with open(path, "wb") as file:
            file.write(b"the beginning")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    save = checkpoints.Checkpoints.save

    def fail_at_8(self, step, *arguments):
        with monkeypatch.context() as patch:
            if step == 8:
                patch.setattr(np, "savez", full)
            save(self, step, *arguments)

    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints.Checkpoints, "save", fail_at_8)
        with pytest.raises(
            UserError, match=r"cannot write to .*: No space left on device; the last good .*-00000004.npz"
        ):
            train.run(SMALL, folder, {})
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == ["step-00000004.npz"]
    train.run(SMALL, folder, {})
    assert_equal_runs(folder, whole)


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_good_checkpoint(tmp_path):
    config = dataclasses.replace(SMALL, learning_rate=1e30, warmup_steps=0, accumulate=1, checkpoint_every=1)
    with pytest.raises(UserError, match=r"the loss of step \d+ is not finite; a learning_rate below 1e\+30 may help"):
        train.run(config, tmp_path, {})
    last = checkpoints.Checkpoints(tmp_path / "checkpoints").last()
    with np.load(last) as archive:
        assert all(np.isfinite(archive[name]).all() for name in archive.files if archive[name].dtype.kind == "f")
    assert json.loads((tmp_path / "config.json").read_text())["learning_rate"] == 1e30
    assert not (tmp_path / "result.json").exists()


def test_a_checkpoint_that_is_broken_gives_way_to_the_one_before(tmp_path):
    kept = checkpoints.Checkpoints(tmp_path)
    variable = keras.Variable([1.0, 2.0])
    for step in range(4):
        kept.save(step, [variable], {"step": step})
    assert [path.name for path in kept.paths()] == ["step-00000002.npz", "step-00000003.npz"]
    os.truncate(kept.paths()[-1], 100)
    variable.assign([0.0, 0.0])
    checkpoints.restore(kept.last(), [variable])
    assert variable.numpy().tolist() == [1.0, 2.0]
    assert checkpoints.read_state(kept.last()) == {"step": 2}


def test_weights_that_are_not_finite_are_not_saved(tmp_path):
    kept = checkpoints.Checkpoints(tmp_path)
    with pytest.raises(FloatingPointError, match="scale is not finite"):
        kept.save(1, [keras.Variable([1.0, np.nan], name="scale")], {})
    assert kept.paths() == []


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    kept = checkpoints.Checkpoints(tmp_path)
    kept.save(1, [keras.Variable([1.0, 2.0], name="scale")], {})
    with pytest.raises(UserError, match=r"of another model: scale has the shape \(2,\) there, but \(3,\) here"):
        checkpoints.restore(kept.last(), [keras.Variable([1.0, 2.0, 3.0])])

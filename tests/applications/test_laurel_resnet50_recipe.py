import dataclasses
import json

import keras
import numpy as np
import pytest
from typer.testing import CliRunner

from applications.errors import UserError
from applications.laurel_resnet50 import __main__ as cli
from applications.laurel_resnet50 import configs, report, sources, train
from applications.laurel_resnet50.experiment import experiment
from applications.laurel_resnet50.throughput import throughput
from keras_laurel.applications import LaurelResNet50

SMALL = dataclasses.replace(
    configs.SMOKE,
    train_images=16,
    batch_size=4,
    epochs=2,
    warmup_epochs=0.5,
    num_blocks=(1, 1),
    filters=(2, 2),
    rank=2,
)
NAMES = [field.name for field in dataclasses.fields(configs.Config)]


def invoke(*arguments):
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


def settings(config):
    """Returns `config` as `--set` options."""
    for key, value in dataclasses.asdict(config).items():
        yield from ("--set", f"{key}={','.join(map(str, value)) if isinstance(value, tuple) else value}")


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """Folders of images, each wrong in one way."""
    monkeypatch.chdir(tmp_path)
    tf = sources.tensorflow()
    pixel = tf.io.encode_png(np.zeros((1, 1, 3), "uint8")).numpy()

    def make(root, files):
        for file, content in files.items():
            path = tmp_path / root / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)

    good = {f"{file}.png": pixel for file in ("train/a/0", "train/a/1", "train/b/0", "train/b/1", "val/a/0", "val/b/0")}
    make("good", good)
    make("no_test", {"train/a/0.png": pixel, "train/b/0.png": pixel})
    make("one_class", {"train/a/0.png": pixel, "val/a/0.png": pixel})
    make("no_images", {"train/a/notes.txt": b"", "train/b/0.png": pixel, "val/a/0.png": pixel})
    make("differ", good | {"val/c/0.png": pixel})
    make("broken", good | {"train/a/1.png": b"no image"})


@pytest.mark.slow_on("jax", "tensorflow")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "imagenet"], "unknown data 'imagenet'; known: tfds:NAME, folder:PATH, keras:NAME, digits"),
        (["--data", "keras:svhn"], "unknown data 'keras:svhn'; known: keras:cifar10"),
        (["--data", "tfds:no_such_set"], "TFDS knows no data set 'no_such_set'"),
        (["--data", "folder:missing"], "there is no folder missing"),
        (["--data", "folder:no_test"], "needs a split train and one of val, validation, test; it has: train"),
        (
            ["--data", "folder:good", "--set", "test_split=test"],
            "needs a split train and one of test; it has: train, v",
        ),
        (["--data", "folder:one_class"], "must be two folders of images or more, one a class, in one_class/train"),
        (["--data", "folder:no_images"], "no images (.jpg, .jpeg, .png) in no_images/train/a"),
        (["--data", "folder:differ"], "the classes of differ/train and differ/val differ: c"),
        (["--data", "folder:broken"], "cannot decode the image broken/train/a/1.png"),
        (["--set", "held_out=4"], "held_out must leave images to train on: folder:good has 4"),
        (["--set", "train_images=9"], "train_images is 9, but folder:good has 4 (with 0 held out)"),
        (["--set", "batch_size=8"], "4 images to train on are too few for 1 part(s) of batch_size 8"),
        (["--residual", "near"], "unknown residual 'near'; known: add, rw"),
        (["--config", "near"], "unknown config 'near'; known: imagenet_1ep, imagenet_90ep, cifar10_small, smoke"),
        (["--set", "epochs"], "a setting is key=value, not 'epochs'"),
        (["--set", "epoch=3"], f"unknown setting 'epoch'; known: {', '.join(NAMES)}"),
        (["--set", "epochs=3.5"], "epochs takes a whole number, not '3.5'"),
        (["--set", "flip=maybe"], "flip takes true or false, not 'maybe'"),
        (["--set", "train_images=all"], "train_images takes a whole number or none, not 'all'"),
        (["--num-blocks", "3,4,x,3"], "num_blocks takes whole numbers divided by commas, not '3,4,x,3'"),
        (["--num-blocks", "3,4,5"], "num_blocks must be 2 numbers above 0, not 3,4,5"),
        (["--set", "min_area=0"], "min_area must be above 0 and at most 1, not 0.0"),
        (["--set", "warmup_epochs=2"], "warmup_epochs must be below epochs (1), not 2.0"),
        (["--set", "precision=int8"], "unknown precision 'int8'"),
        (["--set", "down_initializer=near"], "unknown initializer 'near'; known: column_orthogonal, and"),
        (["--backend", "numpy"], "unknown backend 'numpy'; known: jax, tensorflow, torch"),
        (["--out", "good/val/a/0.png/below"], "cannot write to the folder"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(arguments, message, folders):
    small = {"data": "folder:good", "held_out": 0, "train_images": None, "test_images": None, "epochs": 1}
    config = dataclasses.replace(SMALL, **small, warmup_epochs=0.0)
    outcome = invoke("train", "--out", "out", *settings(config), *arguments)
    assert outcome.exit_code == 2, outcome.output
    assert message in outcome.stderr
    assert len([line for line in outcome.stderr.splitlines() if line.startswith("error: ")]) == 1


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["experiment", "--variants", "add,near"], "unknown variant 'near'; known: add, rw"),
        (["experiment", "--seeds", 0], "--seeds must be at least 1, not 0"),
        (["throughput", "--steps", 0], "--steps must be at least 1, not 0"),
    ],
)
def test_other_commands_refuse_likewise(command, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    outcome = invoke(*command)
    assert (outcome.exit_code, outcome.stderr[:7]) == (2, "error: ")
    assert message in outcome.stderr


def test_settings_are_of_their_fields_types():
    changed = configs.with_settings(
        SMALL, ["epochs=7", "learning_rate=1e-2", "flip=true", "num_blocks=1,2", "train_images=none", "data=x:y=z"]
    )
    assert (changed.epochs, changed.learning_rate, changed.flip, changed.data) == (7, 0.01, True, "x:y=z")
    assert (changed.num_blocks, changed.train_images) == ((1, 2), None)


@pytest.mark.parametrize("name", configs.CONFIGS)
def test_every_config_is_in_range_and_has_its_command_above_it(name):
    configs.checked(configs.named(name))
    with open(configs.__file__) as file:
        text = file.read()
    comment = text[: text.index(f"{name.upper()} = Config(")].rsplit("\n\n", 1)[1]
    assert all(word in comment for word in ("# Paper:", "# Command:", "# Hardware:", "# Result:"))


def test_the_control_has_one_more_block_in_the_last_stage_but_one():
    assert configs.with_variant(SMALL, "add+1").num_blocks == (2, 1)
    assert configs.with_variant(SMALL, "add+1").residual == "add"
    assert configs.with_variant(SMALL, "rw") == dataclasses.replace(SMALL, residual="rw")


def test_a_variant_may_change_settings():
    assert configs.with_variant(SMALL, "rw+lr@rank=3") == dataclasses.replace(SMALL, residual="rw+lr", rank=3)


def test_the_rate_warms_up_and_falls_to_zero():
    config = dataclasses.replace(SMALL, epochs=4, warmup_epochs=1.0, learning_rate=0.8)
    rate = train.schedule(config, steps_per_pass=10)
    # 10 steps up, then half of a cosine over 30: at half of it, half of the rate
    assert [round(float(rate(step)), 5) for step in (0, 5, 10, 25, 40)] == [0.0, 0.4, 0.8, 0.4, 0.0]


def test_variants_of_a_seed_start_from_equal_kernels_and_decay_theirs_alone():
    images = sources.load_images(SMALL)
    plain, laurel, other = (
        train.compiled(dataclasses.replace(SMALL, residual=residual, seed=seed), images)
        for residual, seed in (("add", 0), ("rw+lr+pa", 0), ("add", 1))
    )
    weights = {weight.path: weight for weight in plain.trainable_weights}
    name = next(path for path in weights if path.startswith("conv3_block1_3_conv") and path.endswith("kernel"))
    assert np.array_equal(weights[name], {w.path: w for w in laurel.trainable_weights}[name])
    assert not np.array_equal(weights[name], {w.path: w for w in other.trainable_weights}[name])
    laurel.optimizer.build(laurel.trainable_variables)
    decayed = [v for v in laurel.trainable_variables if laurel.optimizer._use_weight_decay(v)]
    # the stem, three convolutions a block with four projections, and the classifier
    assert len(decayed) == 1 + 2 * 4 + 1
    assert all(v.name == "kernel" for v in decayed)


@pytest.mark.slow_on("tensorflow")
def test_a_run_that_was_stopped_ends_as_one_that_was_not(tmp_path, monkeypatch):
    config = dataclasses.replace(SMALL, residual="rw")
    events = []

    def run(folder):
        return experiment(config, ["rw"], [0], folder, {"command": ""}, lambda *event: events.append(event))

    whole = run(tmp_path / "whole")
    begin = train.EpochLog.on_epoch_begin

    def stop(self, epoch, logs=None):
        begin(self, epoch, logs)
        if epoch == 1:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(train.EpochLog, "on_epoch_begin", stop)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "stopped")
    assert (tmp_path / "stopped" / "rw-seed0" / "backup").exists()
    stopped = run(tmp_path / "stopped")
    assert [epoch["epoch"] for epoch in stopped[0]["epochs"]] == [0, 1]
    for key in ("loss", "accuracy", "val_loss", "learning_rate", "conv3_block1_laurel/alpha"):
        expected = [epoch[key] for epoch in whole[0]["epochs"]]
        assert [epoch[key] for epoch in stopped[0]["epochs"]] == pytest.approx(expected, rel=1e-4), key
    assert stopped[0]["test"] == pytest.approx(whole[0]["test"], rel=1e-4)
    assert sorted(path.name for path in (tmp_path / "stopped").iterdir()) == ["rw-seed0.json"]

    del events[:]
    assert run(tmp_path / "stopped") == stopped
    assert events == [("rw-seed0", "skipped")]
    config = dataclasses.replace(config, epochs=3)
    with pytest.raises(UserError, match=r"rw-seed0\.json is a run with other settings"):
        run(tmp_path / "stopped")


def test_a_run_leaves_its_record_weights_and_logs(tmp_path):
    out = tmp_path / "new" / "folder"
    config = dataclasses.replace(SMALL, ema=0.5, mixup=0.2, weight_decay=1e-3, epochs=1, residual="rw+lr+pa")
    arguments = ["train", *settings(config), "--out", out, "--seed", 3]
    outcome = invoke(*arguments)
    assert outcome.exit_code == 0, outcome.output
    names = ["best.weights.h5", "config.json", "epochs.csv", "last.weights.h5", "result.json", "tensorboard"]
    assert sorted(path.name for path in out.iterdir()) == names
    record = json.loads((out / "result.json").read_text())
    assert record["backend"] == keras.backend.backend()
    assert (record["precision"], record["config"]["seed"], record["steps_per_epoch"]) == ("float32", 3, 4)
    assert record["images"] == {"train": 16, "held_out": 8, "test": 8}
    assert np.isfinite(record["test"]["loss"])
    assert record["epochs"][0]["seconds"] > 0
    assert len(record["joins"]) == 2
    assert {"alpha", "gamma_0", "low_rank_norm_0"} <= set(record["joins"]["conv3_block1_laurel"])
    model = LaurelResNet50(
        weights=str(out / "last.weights.h5"),
        input_shape=(32, 32, 3),
        classes=10,
        residual="rw+lr+pa",
        rank=2,
        num_blocks=(1, 1),
        filters=(2, 2),
    )
    assert record["weights_with_statistics"] == model.count_params()

    again = invoke(*arguments)
    assert (again.exit_code, again.stderr) == (
        2,
        f"error: {out} holds a finished run: choose another --out, or remove it\n",
    )
    (out / "result.json").unlink()
    other = invoke(*arguments, "--set", "epochs=5", "--set", "rank=1")
    assert f"{out} holds a run with another epochs, rank: choose another --out" in other.stderr


def test_a_loss_that_is_not_finite_stops_the_run_and_backs_nothing_up(tmp_path):
    config = dataclasses.replace(SMALL, learning_rate=1e30, warmup_epochs=0.0)
    with pytest.raises(UserError, match="the loss is not finite any more; a learning_rate below"):
        train.run(config, tmp_path, {}, verbose=0)
    assert not (tmp_path / "backup").exists()
    assert not (tmp_path / "result.json").exists()


@pytest.mark.slow_on("tensorflow")
def test_throughput_measures_each_way():
    rates = throughput(SMALL, steps=2)
    assert list(rates) == ["pipeline", "model", "together"]
    assert all(rate > 0 for rate in rates.values())


def test_precision_follows_the_config_and_goes_back():
    with train.precision(dataclasses.replace(SMALL, precision="mixed_bfloat16")) as policy:
        assert policy == keras.config.dtype_policy().name == "mixed_bfloat16"
    assert keras.config.dtype_policy().name == "float32"


def _record(variant, seed, accuracy, weights):
    return {
        "variant": variant,
        "seed": seed,
        "weights": weights,
        "test": {"accuracy": accuracy, "cross_entropy": 1.0 + seed},
        "epochs": [{"val_accuracy": accuracy}] * 3,
        "program": "laurel_resnet50",
        "date": f"2026-01-0{seed + 1}",
        **dict.fromkeys(("command", "commit", "dirty", "device", "cores", "precision", "versions", "backend")),
    }


def test_report_worked_by_hand(tmp_path):
    records = [
        _record("rw", 1, 0.70, 102),
        _record("add", 1, 0.60, 100),
        _record("rw", 0, 0.53, 102),
        _record("add", 0, 0.50, 100),
        _record("rw", 2, 0.60, 102),  # has no partner, so no difference
    ]
    result = report.combined(records)
    assert list(result["variants"]) == ["add", "rw"]
    assert result["date"] == "2026-01-01"
    rw = report.summary(result)[1]
    assert (rw["extra_weights"], rw["seeds"]) == (2, 3)
    assert rw["accuracy"] == pytest.approx(0.61)
    assert rw["accuracy_std"] == pytest.approx(0.0854400)  # sqrt((0.09² + 0.08² + 0.01²) / 2)
    assert rw["difference"] == pytest.approx(0.065)
    assert rw["difference_std"] == pytest.approx(0.0494975)  # of 0.03 and 0.10: 0.07 / sqrt(2)
    assert report.table_cells(result)[1] == [
        ["add", "100", "0", "2", "55.00 ± 7.07", "", "1.5000"],
        ["rw", "102", "+2", "3", "61.00 ± 8.54", "+6.50 ± 4.95", "2.0000"],
    ]
    report.plot(result, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")

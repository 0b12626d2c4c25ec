import dataclasses
import json

import keras
import numpy as np
import pytest
from typer.testing import CliRunner

from applications.laurel_decoder_lm import configs
from benchmarks import decoder, resnet50, step_time, step_time_report
from benchmarks.report import PROGRAMS
from keras_laurel.applications.laurel_decoder import count_weights


def invoke(*arguments):
    return CliRunner().invoke(step_time.app, [str(argument) for argument in arguments])


@pytest.fixture
def tiny(monkeypatch, tmp_path):
    """Puts one dense layer a variant in place of ResNet-50; returns what was built."""
    built, num_classes = [], []

    def build(variant, image_size, jit_compile="auto", config=None, classes=1000):
        inputs = keras.Input((image_size,))
        model = keras.Model(inputs, keras.layers.Dense(1 + len(built))(inputs))
        model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True), jit_compile=jit_compile)
        built.append((variant, model))
        num_classes.append(classes)
        return model

    def batch(batch_size, image_size, classes=1000):
        num_classes.append(classes)
        return np.ones((batch_size, image_size)), np.zeros(batch_size)

    monkeypatch.setattr(resnet50, "build", build)
    monkeypatch.setattr(resnet50, "batch", batch)
    monkeypatch.chdir(tmp_path)
    yield built
    assert len(set(num_classes)) <= 1  # models and labels agree
    keras.config.set_dtype_policy("float32")


def test_a_run_records_the_seconds_of_each_round_and_prints_the_table(tiny, tmp_path):
    outcome = invoke("resnet50", "--variants", "add,rw", "--batch-size", 2, "--image-size", 32, "--rounds", 3)
    assert outcome.exit_code == 0, outcome.output
    backend = keras.backend.backend()
    result = json.loads((tmp_path / "runs" / "step_time" / f"resnet50_step_time_{backend}.json").read_text())
    assert (result["program"], result["subject"], result["backend"]) == ("step_time", "resnet50", backend)
    assert result["command"] == (
        "python -m benchmarks.step_time resnet50 --variants add,rw --batch-size 2 --image-size 32 --rounds 3 "
        f"--precision float32 --jit auto --mode both --backend {backend}"
    )
    assert [name for name, _ in tiny] == list(result["variants"]) == ["add", "rw"]
    for number, (variant, (_, model)) in enumerate(zip(result["variants"].values(), tiny), start=1):
        assert variant["weights"] == 33 * number
        assert variant["jit_compile"] is model.jit_compile  # what "auto" comes to
        for mode in ("train", "infer"):
            assert variant["compile_seconds"][mode] > 0
            assert list(variant["seconds"][mode]) == ["wall", "cpu"]
            assert [value > 0 for value in variant["seconds"][mode]["wall"]] == [True] * 3
    # the first step, which compiles, two that warm up, and the rounds
    assert [int(model.optimizer.iterations) for _, model in tiny] == [6, 6]
    assert "seconds a step: median" in outcome.output


def test_a_fit_counts_as_its_steps(tiny, tmp_path, monkeypatch):
    def eight_seconds(callables, *args, **kwargs):
        for function in callables.values():
            function()
        return {clock: {name: [8.0] for name in callables} for clock in ("wall", "cpu")}

    monkeypatch.setattr("benchmarks.timing.side_by_side", eight_seconds)
    arguments = ["--variants", "add,rw", "--image-size", 32, "--mode", "train", "--fit-steps", 4]
    outcome = invoke("resnet50", *arguments, "--out", tmp_path / "r.json")
    assert outcome.exit_code == 0, outcome.output
    assert [int(model.optimizer.iterations) for _, model in tiny] == [5, 5]  # the first, which compiles, and a fit
    variants = json.loads((tmp_path / "r.json").read_text())["variants"]
    assert [variant["seconds"]["train"]["wall"] for variant in variants.values()] == [[2.0], [2.0]]


def test_the_recipes_comparison_is_a_subject(tiny, tmp_path):
    outcome = invoke("cifar10_small", "--rounds", 1, "--mode", "infer")
    assert outcome.exit_code == 0, outcome.output
    backend = keras.backend.backend()
    result = json.loads((tmp_path / "runs" / "step_time" / f"cifar10_small_step_time_{backend}.json").read_text())
    assert result["command"] == (
        f"python -m benchmarks.step_time cifar10_small --rounds 1 --mode infer --backend {backend}"
    )
    assert list(result["variants"]) == ["add", "add+1", "rw", "rw+lr", "rw+lr+pa"]
    assert (result["settings"]["batch_size"], tiny[0][1].input_shape) == (125, (None, 32))


@pytest.mark.slow_on("jax", "tensorflow")
@pytest.mark.parametrize("variant", ["add", "pa@num_activations=4", "hyperconnections"])
def test_the_decoder_recipes_models_are_timed_as_it_trains_them(variant, monkeypatch, tmp_path):
    monkeypatch.setattr(decoder, "COMPARED", (variant,))
    small = {"num_layers": 1, "hidden_dim": 8, "num_heads": 2, "intermediate_dim": 8, "context": 4, "batch_size": 2}
    monkeypatch.setattr(configs, "CPP_DOCS_DEEP", dataclasses.replace(configs.CPP_DOCS_DEEP, **small, jit="false"))
    outcome = invoke("cpp_docs_deep", "--rounds", 1, "--out", tmp_path / "result.json")
    assert outcome.exit_code == 0, outcome.output
    assert f"{variant}: train wall 1.000" in outcome.output


def test_options_reach_the_models(tiny, tmp_path):
    options = (
        "--variants",
        "rw",
        "--rounds",
        9,
        "--max-seconds",
        1e-9,
        "--mode",
        "infer",
        "--jit",
        "false",
        "--precision",
        "mixed_bfloat16",
    )
    outcome = invoke("resnet50", *options, "--out", "new/result.json")
    assert outcome.exit_code == 0, outcome.output
    result = json.loads((tmp_path / "new" / "result.json").read_text())
    assert "new/result.json" not in result["command"]
    assert (result["precision"], result["variants"]["rw"]["jit_compile"]) == ("mixed_bfloat16", False)
    assert {mode: len(seconds["wall"]) for mode, seconds in result["variants"]["rw"]["seconds"].items()} == {"infer": 1}
    assert tiny[0][1].dtype_policy.name == "mixed_bfloat16"


def test_a_loss_that_is_not_finite_stops_the_run(tiny, monkeypatch):
    monkeypatch.setattr(resnet50, "batch", lambda batch_size, size: (np.full((2, size), np.nan), np.zeros(2)))
    assert isinstance(invoke("resnet50", "--variants", "rw").exception, FloatingPointError)


@pytest.mark.slow_on("jax", "tensorflow")
def test_a_size_of_the_decoder_brings_its_own_shape(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = ("--size", "tiny", "--variants", "add,add+4", "--length", 8, "--rounds", 1, "--jit", "false")
    outcome = invoke("decoder", *options, "--out", "result.json")
    assert outcome.exit_code == 0, outcome.output
    result = json.loads((tmp_path / "result.json").read_text())
    assert list(result["settings"])[:4] == ["variants", "size", "batch_size", "length"]
    assert {name: run["weights"] for name, run in result["variants"].items()} == {
        "add": count_weights("tiny", residual="add"),
        "add+4": count_weights("tiny", residual="add", num_layers=6),
    }
    assert all("train" in run["memory"] for run in result["variants"].values())


def test_an_unknown_size_is_refused():
    outcome = invoke("decoder", "--size", "huge")
    assert outcome.exit_code == 2
    assert "unknown size 'huge'; known: tiny, small, 157m" in outcome.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--variants", "add,near"], "unknown variant 'near'; known: keras, add, rw"),
        (["--variants", "add,add"], "a variant is named twice in 'add,add'"),
        (["--batch-size", 0], "--batch-size must be at least 1, not 0"),
        (["--image-size", 31], "--image-size must be at least 32, not 31"),
        (["--max-seconds", 0], "--max-seconds must be above 0, not 0"),
        (["--fit-steps", -1], "--fit-steps must be at least 0, not -1"),
        (["--rounds", 0], "--rounds must be at least 1, not 0"),
        (["--precision", "int8"], "unknown precision 'int8'; known: float32"),
        (["--jit", "maybe"], "unknown jit 'maybe'; known: true, false, auto"),
        (["--mode", "test"], "unknown mode 'test'; known: train, infer, both"),
        (["--backend", "numpy"], "unknown backend 'numpy'; known: jax, tensorflow, torch"),
        (["--out", "file/below.json"], "cannot write to the folder file"),
        (["--out", "folder"], "cannot write to folder: it is there and not a file"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(arguments, message, tiny, tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    outcome = invoke("resnet50", *arguments)
    assert (outcome.exit_code, outcome.stderr.count("error: ")) == (2, 1), outcome.output
    assert message in outcome.stderr
    assert tiny == []


def test_the_reference_is_the_plain_network_of_keras():
    plain, control = resnet50.build("keras", 32), resnet50.build("add+1", 32)
    assert (plain.name, control.name) == ("resnet50", "laurel_resnet50")
    # the paper's one more block of the third stage, 4.37% of the trainable weights
    assert control.count_params() - plain.count_params() == 1_118_720 + 3_072
    assert plain.layers[-1].activation is keras.activations.linear


def _seconds(wall, cpu):
    return {"wall": wall, "cpu": cpu}


def test_table_and_plot_worked_by_hand(tmp_path):
    train, infer = _seconds([2.0, 4.0, 2.0], [3.0, 3.0, 3.0]), _seconds([1.0, 1.0, 1.0], [1.0, 1.0, 1.0])
    plain = {"weights": 1000, "seconds": {"train": train, "infer": infer}}
    train, infer = _seconds([2.2, 4.0, 2.4], [3.3, 3.3, 3.6]), _seconds([1.0, 0.5, 1.5], [1.0, 1.0, 1.0])
    joined = {"weights": 1002, "seconds": {"train": train, "infer": infer}}
    result = {"backend": "jax", "device": "CPU (x86_64)", "variants": {"keras": plain, "rw": joined}}
    table = [
        ["variant", "keras", "rw"],
        ["weights", "1,000", "1,002"],
        ["train, s", "2.000", "2.400"],
        ["train, ratio of time", "1.000 (1.000-1.000)", "1.100 (1.050-1.150)"],
        ["train, ratio of CPU time", "1.000 (1.000-1.000)", "1.100 (1.100-1.150)"],
        ["infer, s", "1.000", "1.000"],
        ["infer, ratio of time", "1.000 (1.000-1.000)", "1.000 (0.750-1.250)"],
        ["infer, ratio of CPU time", "1.000 (1.000-1.000)", "1.000 (1.000-1.000)"],
    ]
    header, rows = step_time_report.table_cells(result)
    assert [header, *rows] == [list(row) for row in zip(*table)]
    assert PROGRAMS["step_time"] is step_time_report
    step_time_report.plot(result, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
    of_step = {"keras": 2e9, "rw": 2.1e9}
    variants = {name: run | {"memory": {"train": of_step[name]}} for name, run in result["variants"].items()}
    header, rows = step_time_report.table_cells(result | {"variants": variants})
    assert header[5:7] == ["train, memory of a step, GB", "train, ratio of memory"]
    assert [row[5:7] for row in rows] == [["2.00", "1.000"], ["2.10", "1.050"]]
    # the process's time says nothing of a GPU's
    assert not [name for name in step_time_report.table_cells(result | {"device": "a GPU"})[0] if "CPU" in name]

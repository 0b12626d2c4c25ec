import dataclasses
import json

import keras
import numpy as np
import pytest
from typer.testing import CliRunner

from applications.tiny_lm import __main__ as cli
from applications.tiny_lm import compare, report
from applications.tiny_lm.data import load_text
from applications.tiny_lm.model import decoder_lm

SMALL = compare.Config(steps=6, batch_size=2, context=8, num_blocks=1, dim=8, num_heads=2, rank=2, evaluate_every=2)


def invoke(*arguments):
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


@pytest.fixture
def text_file(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("to be, or not to be: that is the question. \n" * 20)
    return path


@pytest.mark.slow_on("tensorflow")
def test_a_run_writes_whole_files_and_prints_a_table_and_a_line(tmp_path, text_file, monkeypatch):
    monkeypatch.setattr(compare, "Config", lambda steps: dataclasses.replace(SMALL, steps=steps))
    out = tmp_path / "new" / "folder"
    outcome = invoke("--variants", "add,rw+lr", "--steps", 3, "--text", text_file, "--out", out, "--prompt", "to be")
    assert outcome.exit_code == 0, outcome.output
    assert sorted(path.name for path in out.iterdir()) == ["results.csv", "results.json", "results.png"]
    result = json.loads((out / "results.json").read_text())
    assert (result["complete"], result["backend"]) == (True, keras.backend.backend())
    assert {name: len(v["runs"][0]["train_loss"]) for name, v in result["variants"].items()} == {"add": 3, "rw+lr": 3}
    assert (out / "results.csv").read_text().splitlines()[2].startswith("rw+lr,")
    assert (out / "results.png").read_bytes().startswith(b"\x89PNG")
    assert "writes: to be" in outcome.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--variants", "add,near"], "unknown variant 'near'; known: add, add+1, rw"),
        (["--variants", "add,add"], "named twice"),
        (["--steps", 0], "--steps must be at least 1, not 0"),
        (["--seeds", 0], "--seeds must be at least 1, not 0"),
        (["--text", "empty"], "has 0 characters"),
        (["--text", "short"], "has 12 characters"),
        (["--text", "binary"], "not UTF-8 text"),
        (["--text", "missing"], "cannot read the text"),
        (["--out", "short/below_a_file"], "cannot write to the folder"),
        (["--backend", "numpy"], "unknown backend 'numpy'; known: jax, tensorflow, torch"),
        (["--prompt", "\N{SNOWMAN}"], "must be made of characters that the text has"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2_with_nothing_written(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, content in (("empty", b""), ("short", b"to be or not"), ("binary", b"\xff\xfe\x00" * 500)):
        (tmp_path / name).write_bytes(content)
    outcome = invoke("--out", "out", *arguments)
    assert outcome.exit_code == 2
    assert message in outcome.stderr
    assert len(outcome.stderr.splitlines()) == 1
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "out") == ["binary", "empty", "short"]
    assert not list(tmp_path.glob("out/*"))


def test_a_missing_backend_is_named(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    outcome = invoke("--backend", "torch")
    assert (outcome.exit_code, outcome.stderr) == (
        2,
        "error: backend 'torch' is not installed; try: pip install 'keras-laurel[torch]'\n",
    )


def test_help_names_the_variants():
    outcome = invoke("--help")
    assert outcome.exit_code == 0
    assert all(name in outcome.output for name in compare.KNOWN_VARIANTS)


@pytest.mark.slow_on("tensorflow")
def test_an_interrupt_keeps_what_was_measured(monkeypatch, text_file):
    train = compare.train_side_by_side

    def interrupted(*arguments):
        *others, on_step = arguments

        def stop_at_3(step):
            on_step(step)
            if step == 3:
                raise KeyboardInterrupt

        train(*others, stop_at_3)

    monkeypatch.setattr(compare, "train_side_by_side", interrupted)
    result = {"variants": {}, "complete": False}
    cli.train(result, ["add", "rw"], 2, SMALL, load_text(text_file, SMALL.context))
    assert not result["complete"]
    for variant in result["variants"].values():
        (run,) = variant["runs"]
        assert (len(run["train_loss"]), [step for step, _ in run["held_out"]]) == (3, [2])


def test_a_loss_that_is_not_finite_stops_the_run(text_file):
    text = load_text(text_file, SMALL.context)
    model = compare.build("add", SMALL, len(text.characters), seed=0)
    model.layers[-1].kernel.assign(model.layers[-1].kernel * np.nan)
    record = {"add": {"train_loss": [], "held_out": [], "step_seconds": []}}
    with pytest.raises(FloatingPointError, match="the loss of add is nan at step 1"):
        compare.train_side_by_side({"add": model}, text, SMALL, 0, record)


def test_variants_of_a_seed_start_as_one_function_and_other_seeds_do_not():
    tokens = np.arange(16).reshape(2, 8)

    def outputs(kind, seed):
        model = decoder_lm(16, 8, kind, num_blocks=2, dim=8, num_heads=2, rank=2, seed=seed)
        return model.predict(tokens, verbose=0)

    assert np.array_equal(outputs("rw+lr+pa", 1), outputs("add", 1))
    assert not np.array_equal(outputs("add", 2), outputs("add", 1))


def test_batches_depend_on_seed_and_step_alone_and_never_touch_the_held_out_tenth(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("".join(chr(0x4E00 + index) for index in range(1000)))  # every character stands once
    text = load_text(path, context=8)
    assert (len(text.train), len(text.held_out)) == (900, 100)
    inputs, targets = text.batch(3, 7, batch_size=400, context=8)
    assert np.array_equal(inputs[:, 1:], targets[:, :-1])
    assert np.array_equal(inputs, text.batch(3, 7, batch_size=400, context=8)[0])
    assert not np.array_equal(inputs, text.batch(3, 8, batch_size=400, context=8)[0])
    assert not set(targets.flat) & set(text.held_out)
    assert text.decode(text.held_out[-2:]) == path.read_text()[-2:]


def test_summary_of_a_record_worked_by_hand():
    def run(seed, loss, seconds):
        return {"seed": seed, "held_out": [[4, 9.0], [8, loss]], "step_seconds": [50.0, 50.0, *seconds]}

    result = {
        "variants": {
            "add": {"weights": 100, "runs": [run(0, 2.0, [1.0, 2.0]), run(1, 3.0, [1.0, 1.0])]},
            "rw": {"weights": 102, "runs": [run(0, 1.0, [1.1, 2.4]), run(1, 2.0, [1.3, 1.4])]},
        }
    }
    rw = report.summary(result)[1]
    # ratios 1.1, 1.2, 1.3, 1.4; losses 1 and 2, whose sample standard deviation is sqrt(1/2)
    assert (rw["extra_weights"], rw["seeds"], rw["held_out_loss"]) == (2, 2, 1.5)
    assert rw["held_out_loss_std"] == pytest.approx(0.5**0.5)
    assert (rw["gap"], rw["gap_std"]) == (-1.0, 0.0)
    assert rw["step_time_ratio"] == pytest.approx(1.25)
    assert rw["step_time_ratio_q1"] == pytest.approx(1.175)

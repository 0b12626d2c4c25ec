"""What the commands of the recipe make, say and refuse."""

import csv
import dataclasses
import itertools
import json
import math
from types import SimpleNamespace

import keras
import keras_hub
import numpy as np
import pytest
from typer.testing import CliRunner

from applications.errors import UserError
from applications.files import write_json
from applications.laurel_decoder_lm import __main__ as cli
from applications.laurel_decoder_lm import callbacks, configs, experiment, model, report, schedules, tokenization, train
from applications.laurel_decoder_lm.history import History
from applications.laurel_decoder_lm.loading import load_model
from applications.laurel_decoder_lm.stream import Stream

SMALL = dataclasses.replace(
    configs.SMOKE,
    context=16,
    batch_size=2,
    steps=2,
    num_layers=1,
    hidden_dim=8,
    num_heads=2,
    intermediate_dim=8,
    warmup_steps=1,
    evaluate_every=2,
    evaluate_batches=1,
    checkpoint_every=2,
    sample_every=2,
)


def invoke(*arguments):
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


def settings(config):
    """Returns `config` as `--set` options."""
    for key, value in dataclasses.asdict(config).items():
        yield from ("--set", f"{key}={value}")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a finished run, and what its command said."""
    folder = tmp_path_factory.mktemp("run") / "new" / "folder"
    outcome = invoke("train", *settings(SMALL), "--seed", 3, "--out", folder)
    assert outcome.exit_code == 0, outcome.output
    return folder, outcome.output


def test_a_run_leaves_its_record_model_and_logs(run):
    folder, output = run
    names = ["config.json", "held_out.csv", "losses.csv", "preset", "result.json", "samples.txt", "tensorboard"]
    assert sorted(path.name for path in folder.iterdir()) == names
    record = json.loads((folder / "result.json").read_text())
    assert (record["backend"], record["config"]["seed"]) == (keras.backend.backend(), 3)
    assert len(record["joins"]) == 2
    assert record["joins_in_training"][-1] == {"step": record["held_out"][-1]["step"], "values": record["joins"]}
    assert record["seconds"] == pytest.approx(2 * record["step_seconds"])
    with open(folder / "losses.csv", newline="") as file:
        losses = [[int(row["step"]), float(row["loss"])] for row in csv.DictReader(file)]
    assert record["train"] == losses
    assert f"held out: loss {record['held_out'][-1]['loss']:.4f}" in output
    assert record["sample"].startswith("The ")
    lm = keras_hub.models.CausalLM.from_preset(str(folder / "preset"))
    assert record["weights"] == lm.count_params()
    assert lm.generate("To", max_length=4).startswith("To")


def test_the_preset_of_a_run_in_mixed_precision_loads(tmp_path):
    config = dataclasses.replace(SMALL, precision="mixed_bfloat16", held_out=0.0, sample_every=0)
    record = train.run(config, tmp_path, {})
    assert record["precision"] == "mixed_bfloat16"
    lm = keras_hub.models.CausalLM.from_preset(str(tmp_path / "preset"))
    assert lm.dtype_policy.name == "mixed_bfloat16"
    assert lm.generate("To", max_length=4).startswith("To")


def test_evaluate_is_what_numpy_finds(run, tmp_path):
    text = "a few words, and a last one"
    (tmp_path / "text.txt").write_text(text)
    outcome = invoke("evaluate", run[0], "--text", f"files:{tmp_path}/text.txt")
    assert outcome.exit_code == 0, outcome.output
    lm = load_model(run[0])
    end = lm.preprocessor.tokenizer.end_token_id
    stream = [end, *text.encode(), end]
    total, targets = 0.0, stream[1:]
    for start in range(0, len(targets), SMALL.context):
        inputs, outputs = stream[start : start + SMALL.context], targets[start : start + SMALL.context]
        logits = keras.ops.convert_to_numpy(lm({"token_ids": np.array([inputs[: len(outputs)]])})).astype("float64")[0]
        total += sum(np.log(np.exp(row).sum()) - row[target] for row, target in zip(logits, outputs))
    loss = total / len(targets)
    found = dict(part.rsplit(" ", 1) for part in outcome.stdout.strip().split(", "))
    assert float(found["loss"]) == pytest.approx(loss, abs=1e-4)
    assert float(found["perplexity"]) == pytest.approx(math.exp(loss), rel=1e-4)
    assert float(found["bits_per_byte"]) == pytest.approx(total / math.log(2) / len(text), abs=1e-4)


def test_generate_writes_on(run):
    outcome = invoke("generate", run[0], "--prompt", "To be", "--length", 9, "--sampler", "greedy")
    assert outcome.exit_code == 0, outcome.output
    assert outcome.stdout.startswith("To be")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--config", "near"], "unknown config 'near'; known: smoke"),
        (["train", "--set", "step=3"], "unknown setting 'step'; known: text"),
        (["train", "--set", "steps=0"], "steps must be at least 1, not 0"),
        (["train", "--residual", "near"], "unknown residual 'near'; known: add"),
        (["train", "--set", "mixers=mamba,magic"], "Received: mixers='magic'"),
        (["train", "--set", "size=huge"], "unknown size 'huge'; known: tiny"),
        (["train", "--set", "hidden_dim=7"], "Received: num_heads=2"),
        (["train", "--set", "sample_prompt=A prompt of many words"], "the prompt has 23 tokens with the start token"),
        (["train", "--out", "RUN"], "holds a finished run: choose another --out"),
        (["train", "--out", "OTHER"], "holds a run with another rank, steps: choose another --out"),
        (["train", "--text", "folder:x"], "unknown text 'folder:x'"),
        (["train", "--backend", "numpy"], "unknown backend 'numpy'"),
        (["experiment", "--variants", "add,near"], "unknown variant 'near'; known: add, rw"),
        (["experiment", "--variants", "rw@ranks=2"], "unknown setting 'ranks'; known: text"),
        (["experiment", "--variants", "add,add"], "the variant 'add' is named twice"),
        (["experiment", "--seeds", 0], "--seeds must be at least 1, not 0"),
        (["experiment", "--first-seed", -1], "--first-seed must be at least 0, not -1"),
        (["experiment", "--set", "held_out=0"], "held_out must be above 0"),
        (["evaluate", "nowhere"], "there is no run in nowhere"),
        (["evaluate", "OTHER"], "has no checkpoint yet"),
        (["evaluate", "OLD"], "is of another version of this program: it differs in width"),
        (["evaluate", "RUN", "--split", "all"], "unknown split 'all'; known: held_out, test"),
        (["evaluate", "RUN", "--split", "test"], "has no test documents"),
        (["generate", "nowhere"], "there is no run in nowhere"),
        (["generate", "RUN", "--prompt", "A prompt of many words"], "the prompt has 23 tokens with the start token"),
        (["generate", "RUN", "--length", 17], "--length must be at most 16, the context of the model, not 17"),
        (["generate", "RUN", "--sampler", "beam"], "unknown sampler 'beam'; known: greedy"),
        (["generate", "RUN", "--temperature", 0], "--temperature must be above 0"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(arguments, message, run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plain = dataclasses.asdict(SMALL)
    for name, config in (("OTHER", plain | {"rank": 1, "steps": 7}), ("OLD", plain | {"width": 3})):
        (tmp_path / name).mkdir()
        write_json(tmp_path / name / "config.json", config)
        (tmp_path / name / "losses.csv").touch()
    arguments = [run[0] if argument == "RUN" else argument for argument in arguments]
    if arguments[0] in ("train", "experiment"):
        arguments[1:1] = settings(SMALL)
    outcome = invoke(*arguments)
    assert outcome.exit_code == 2, outcome.output
    assert message in outcome.stderr
    assert len([line for line in outcome.stderr.splitlines() if line.startswith("error: ")]) == 1


def test_a_preset_of_another_vocabulary_is_refused(run, monkeypatch):
    tokenizer = tokenization.load(SMALL, None, run[0])
    monkeypatch.setattr(tokenizer, "vocabulary_size", lambda: 300)
    monkeypatch.setattr(tokenization, "load", lambda *arguments: tokenizer)
    outcome = invoke("generate", run[0])
    assert outcome.exit_code == 2
    assert "has a vocabulary of 256 tokens, but the tokenizer of the run has 300" in outcome.stderr


def test_ctrl_c_says_how_to_go_on(tmp_path, monkeypatch):
    def stop(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "run", stop)
    outcome = invoke("train", *settings(SMALL), "--out", tmp_path)
    assert outcome.exit_code == 130
    assert f"the same command goes on from the last checkpoint in {tmp_path}" in outcome.stderr


@pytest.mark.slow_on("tensorflow")
def test_an_experiment_skips_what_is_done_and_goes_on_with_what_stopped(tmp_path, monkeypatch):
    config = dataclasses.replace(SMALL, sample_every=0)
    events = []

    def compare():
        return experiment.experiment(
            config, ["add", "add+1"], [0], tmp_path, {}, lambda name, state: events.append((name, state))
        )

    write = train.write_json
    with monkeypatch.context() as patch:

        def stop_at_the_second(path, record):
            write(path, record)
            if "add+1" in str(path):
                raise KeyboardInterrupt

        patch.setattr(train, "write_json", stop_at_the_second)
        with pytest.raises(KeyboardInterrupt):
            compare()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["add+1-seed0", "add-seed0.json"]
    del events[:]
    records = compare()
    assert events == [("add-seed0", "skipped"), ("add+1-seed0", "started"), ("add+1-seed0", records[1])]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["add+1-seed0.json", "add-seed0.json"]
    assert records[1]["config"]["num_layers"] == 2
    assert records[0]["held_out"][0]["loss"] != records[1]["held_out"][0]["loss"]


@pytest.mark.slow_on("tensorflow")
def test_a_stopped_run_can_be_evaluated(tmp_path, monkeypatch):
    def stop(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(train, "write_json", stop)
        with pytest.raises(KeyboardInterrupt):
            train.run(
                dataclasses.replace(SMALL, evaluate_batches=None, context=64, batch_size=16, sample_every=0),
                tmp_path,
                {},
            )
    with open(tmp_path / "held_out.csv", newline="") as file:
        expected = list(csv.DictReader(file))[-1]
    outcome = invoke("evaluate", tmp_path)
    assert outcome.exit_code == 0, outcome.output
    assert f"loss {float(expected['loss']):.4f}" in outcome.stdout


class Counting:
    """Counts up, and reads ahead of nobody."""

    def __init__(self):
        self.at = 0

    def __next__(self):
        self.at += 1
        return self.at

    def get_state(self):
        return self.at

    def set_state(self, state):
        self.at = state


def test_a_stream_starts_anew_for_each_reader_and_keeps_places():
    stream = Stream(Counting, place=10, interval=2)
    assert list(itertools.islice(stream, 3)) == [11, 12, 13]
    assert list(itertools.islice(stream, 5)) == [11, 12, 13, 14, 15]
    assert stream.places == {2: 12, 4: 14}


def test_a_place_that_was_read_ahead_is_there_for_the_next_checkpoint(tmp_path, monkeypatch):
    monkeypatch.setattr(callbacks, "state_variables", lambda model: [])
    saved = []
    checkpoints = SimpleNamespace(folder=tmp_path, save=lambda step, variables, state: saved.append(state["place"]))
    history, stream = History(), Stream(Counting, place=0, interval=2)
    saver = callbacks.Saver(history, dataclasses.replace(SMALL, checkpoint_every=2), checkpoints, stream)
    list(itertools.islice(stream, 4))
    for step in (2, 4):
        history.losses = [0.0] * step
        saver.on_epoch_end(0)
    assert saved == [2, 4]
    assert stream.places == {}


def test_the_rate_is_as_configured():
    config = dataclasses.replace(SMALL, steps=40, warmup_steps=10, learning_rate=0.8, final_rate=0.25, decay_part=0.25)

    def rates(kind, steps):
        rate = schedules.schedule(dataclasses.replace(config, schedule=kind))
        return [round(float(rate(step)), 5) for step in steps]

    assert rates("cosine", (0, 5, 10, 25, 40)) == [0.0, 0.4, 0.8, 0.5, 0.2]
    assert rates("wsd", (0, 5, 10, 30, 35, 40)) == [0.0, 0.4, 0.8, 0.8, 0.5, 0.2]


def test_a_schedule_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"Received: steps=5, warmup_steps=3, decay_steps=3"):
        schedules.WarmupStableDecay(1.0, 5, 3, 3)


def test_only_kernels_decay(tmp_path):
    lm = model.build(dataclasses.replace(SMALL, residual="rw+lr+pa"), tokenization.load(SMALL, None, tmp_path))
    trained = model.trainer(lm, SMALL)
    decayed = [v.path for v in trained.trainable_variables if trained.optimizer._use_weight_decay(v)]
    assert len(decayed) == 4 + 3  # of attention and of SwiGLU
    assert all(path.endswith("kernel") and "join" not in path for path in decayed)


def test_seconds_leave_the_compilation_out():
    history = History(losses=[0.0] * 8, parts=[[2, 99.0, True], [2, 2.0, False], [2, 50.0, True], [2, 4.0, False]])
    assert history.step_seconds() == 1.5  # of 1 and 2
    assert [history.seconds_at(step) for step in (2, 4, 6, 7, 8)] == [3.0, 5.0, 8.0, 10.0, 12.0]


JOINS = {
    "a": {"alpha": 1.0, "beta": 0.5, "gamma_0": 1.0, "low_rank_norm_0": 2.0},
    "b": {"alpha": 1.1, "beta": 0.9, "gamma_0": 1.0, "gamma_1": 0.5, "low_rank_norm_0": 2.0, "low_rank_norm_1": 1.0},
}


def _record(variant, seed, loss, curve, weights=100):
    return {
        "variant": variant,
        "seed": seed,
        "weights": weights,
        "test": {"loss": loss, "perplexity": 1.0, "bits_per_byte": loss / 2},
        "held_out": [
            {"step": 10 * i, "seconds": seconds, "loss": value} for i, (seconds, value) in enumerate(curve, 1)
        ],
        "joins": {} if variant == "add" else JOINS,
        "joins_in_training": [{"step": 10, "values": {}}, {"step": 20, "values": {} if variant == "add" else JOINS}],
        "program": "laurel_decoder_lm",
        "date": f"2026-01-0{seed + 1}",
        **dict.fromkeys(("command", "commit", "dirty", "device", "cores", "precision", "versions", "backend")),
    }


def test_report_worked_by_hand(tmp_path):
    records = [
        _record("rw", 1, 1.7, [(10, 3.0), (30, 1.0)], 102),
        _record("add", 1, 2.0, [(8, 4.0), (20, 2.0)]),
        _record("rw", 0, 1.9, [(10, 3.0), (20, 2.5)], 102),
        _record("add", 0, 2.0, [(10, 4.0), (20, 2.25)]),
    ]
    result = report.combined(records)
    assert list(result["variants"]) == ["add", "rw"]
    rw = report.summary(result)[1]
    assert rw["loss"] == pytest.approx(1.8)
    assert rw["difference"] == pytest.approx(-0.2)  # of -0.1 and -0.3
    assert rw["difference_std"] == pytest.approx(0.2 / math.sqrt(2))
    assert rw["time_ratio"] == pytest.approx(1.25)  # the fastest parts took 0.8 and 1 seconds a step
    # In the time of add's 20 steps rw does 16: 2.7 beside 2.25, and 1.8 (0.6 of the way from 3.0 to 1.0) beside 2.0.
    assert rw["time_difference"] == pytest.approx(0.125)  # of 0.45 and -0.2
    assert report.table_cells(result)[1] == [
        ["add", "100", "0", "2", "2.0000 ± 0.0000", "", "", "1.0000", "", "1.000"],
        [
            *("rw", "102", "+2", "2", "1.8000 ± 0.1414", "-0.2000 ± 0.1414"),
            "-1.4706 to +1.0706",  # 12.706 standard errors of 0.1
            *("0.9000", "+0.1250 ± 0.4596", "1.250"),
        ],
    ]
    report.plot(result, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_without_a_test_text_the_held_out_documents_count():
    metrics = {"loss": 2.25, "perplexity": 9.5, "bits_per_byte": 3.0}
    assert report.final({"test": None, "held_out": [{"step": 4, "seconds": 1.0, **metrics}]}) == metrics


@pytest.mark.slow_on("tensorflow")
def test_the_smoke_run_is_whole(tmp_path):
    outcome = invoke("train", "--smoke", "--out", tmp_path)
    assert outcome.exit_code == 0, outcome.output
    record = json.loads((tmp_path / "result.json").read_text())
    assert np.isfinite([loss for _, loss in record["train"]]).all()
    assert len(record["held_out"]) == 2


@pytest.mark.slow  # three compilations of a minute
@pytest.mark.filterwarnings("ignore")  # of torch.compile
@pytest.mark.skipif(keras.backend.backend() != "torch", reason="The others compile every step.")
def test_torch_compile_changes_no_loss(tmp_path):
    losses = []
    for jit in ("false", "true"):
        train.run(dataclasses.replace(SMALL, steps=4, held_out=0.0, sample_every=0, jit=jit), tmp_path / jit, {})
        losses.append(json.loads((tmp_path / jit / "result.json").read_text())["train"])
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-5)


@pytest.mark.slow_on("tensorflow")
def test_a_test_text_is_evaluated_at_the_end(tmp_path):
    (tmp_path / "text.txt").write_text("some words")
    record = train.run(
        dataclasses.replace(SMALL, test_text=f"files:{tmp_path}/text.txt", sample_every=0), tmp_path / "out", {}
    )
    loss = record["test"]["loss"]
    assert record["test"]["bits_per_byte"] == pytest.approx(
        loss * 11 / 10 / math.log(2)
    )  # the end is the eleventh token


def test_the_error_of_a_run_without_room_names_no_checkpoint(tmp_path, monkeypatch):
    def full(*arguments, **named):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(UserError, match="No space left on device; there is no checkpoint yet"):
        train.run(dataclasses.replace(SMALL, held_out=0.0, sample_every=0), tmp_path, {})

"""The command: what a run costs and records, that a study goes on, and what it refuses."""

import dataclasses
import json

import keras
import pytest
from typer.testing import CliRunner

from benchmarks import report as reports
from benchmarks.isoflop import __main__ as cli
from benchmarks.isoflop import report, runs

TINY = runs.Run("attention", "add", 16, 1, 3e7, 0, batch_size=2, length=8, rank=2)


def invoke(*arguments):
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


def test_flops_worked_by_hand():
    model = runs.build(dataclasses.replace(TINY, join="rw+lr"), vocabulary_size=10)
    # a position: projections 4 * 2 * 16 * 16, scores and values 8 * (4 * 16 + 2), SwiGLU 3 * 2 * 16 * 48, two joins of
    # 2 * 2 * 16 * 2, output 2 * 16 * 10
    of_blocks = model.backbone.transformer_layers[0]
    assert of_blocks.feedforward.flops(1) >= 3 * 2 * 16 * 48
    attention = 8 * 4 * 2 * 16 * 16 + 8 * 8 * (4 * 16 + 2)
    assert of_blocks.mixer.flops(8) == attention
    assert runs.flops(model, 8) == attention + of_blocks.feedforward.flops(8) + 8 * (2 * 2 * 2 * 16 * 2 + 2 * 16 * 10)


def test_flops_of_hyper_connections_count():
    plain, model = (runs.build(dataclasses.replace(TINY, join=join), 10) for join in ("add", "hyperconnections"))
    assert runs.flops(model, 8) - runs.flops(plain, 8) == 8 * 2 * (2 * 16 * (4 * 6 + 4 * 4 + 4 + 4))


def test_steps_spend_the_budget():
    assert runs.num_steps(TINY, 1e6) == 5  # 3e7 / (3 * 1e6 * 2)
    assert runs.num_steps(TINY, 1e9) == 1


def test_runs_that_differ_in_the_join_alone_start_alike_and_see_the_same_text():
    plain, joined = (runs.build(dataclasses.replace(TINY, join=join), 65) for join in ("add", "rw+lr"))
    tokens = {"token_ids": [[1, 2, 3]], "padding_mask": [[1, 1, 1]]}
    tokens = {key: keras.ops.convert_to_tensor(value) for key, value in tokens.items()}
    assert keras.ops.convert_to_numpy(plain(tokens)).tolist() == keras.ops.convert_to_numpy(joined(tokens)).tolist()


@pytest.mark.slow_on("tensorflow", "torch")
def test_a_study_goes_on_and_is_reported(tmp_path):
    options = ("--budgets", "3e7", "--sizes", "16x1,32x1,48x1", "--joins", "rw", "--mixers", "attention")
    options += ("--batch-size", 2, "--length", 8, "--rank", 2, "--processes", 0, "--out", tmp_path / "study")
    options += ("--backend", keras.backend.backend())
    outcome = invoke("run", *options)
    assert outcome.exit_code == 0, outcome.output
    paths = sorted((tmp_path / "study").glob("*.json"))
    assert len(paths) == 3
    record = json.loads(paths[0].read_text())
    assert (record["program"], record["settings"]["mixers"], record["settings"]["length"]) == (
        "isoflop",
        "attention",
        8,
    )
    assert record["steps"] == max(1, round(record["settings"]["budget"] / (3 * record["flops"] * 2)))
    assert 0 < record["loss"] < 10

    paths[0].unlink()
    again = invoke("run", *options)
    assert "2 of 3 runs are there already" in again.output
    assert json.loads(paths[0].read_text())["loss"] == pytest.approx(record["loss"], rel=1e-4)

    drawn = invoke("report", tmp_path / "study", "--plot", tmp_path / "plot.png")
    assert drawn.exit_code == 0, drawn.output
    assert report.CAVEAT in drawn.output
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
    assert reports.PROGRAMS["isoflop"] is report


def test_the_table_of_a_study():
    def run(join, weights, loss):
        settings = {"mixers": "attention", "join": join, "budget": 1e12}
        return {"settings": settings, "weights": weights, "loss": loss, "state": 64, "date": "2026"}

    losses = [(250, 3.0), (1000, 2.0), (4000, 3.0)]
    found = [run(join, n, loss - lower) for join, lower in (("rw", 0.1), ("add", 0.0)) for n, loss in losses]
    header, rows = report.table_cells({"runs": [*found, run("add", 5, None)]})
    assert header == ["mixers, join", "budget", "runs", "best weights", "loss there", "state there", "beside add"]
    assert rows == [
        ["attention, add", "1e+12", "3", "1,000", "2.0000", "64", ""],
        ["attention, rw", "1e+12", "3", "1,000", "1.9000", "64", "-0.1000"],
    ]


def test_the_table_of_pairs_worked_by_hand():
    def run(join, width, loss, weights):
        settings = {"mixers": "attention", "join": join, "budget": 1e12, "width": width, "blocks": 1, "seed": 0}
        return {"settings": settings, "weights": weights, "loss": loss, "state": 64, "date": "2026"}

    plain = [run("add", 16, 3.0, 250), run("add", 32, 2.0, 1000), run("add", 48, 2.5, 2000), run("add", 64, 5.0, 9000)]
    joined = [run("rw", 16, 2.9, 260), run("rw", 32, 1.8, 1010), run("rw", 64, 1.0, 9010)]
    # 64 is nine times the best size; 48 has no pair. Differences -0.1 and -0.2, and 12.706 standard errors of two.
    header, rows = report.paired_cells({"runs": [*joined, *plain]})
    assert header == ["mixers, join", "budget", "pairs", "mean difference", "95% interval"]
    assert rows == [["attention, rw", "1e+12", "2", "-0.1500", "-0.7853 to +0.4853"]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--budgets", "much"], "--budgets takes numbers divided by commas, not 'much'"),
        (["--budgets", "1e9,1e9"], "--budgets must be above 0, each once, not 1e9,1e9"),
        (["--sizes", "32"], "--sizes takes WIDTHxBLOCKS such as 64x3, not '32'"),
        (["--sizes", "40x2"], "widths must be multiples of 16 above the rank, 8, not 40"),
        (["--sizes", "32x2,32x2"], "--sizes names a size twice"),
        (
            ["--mixers", "attention-then-near"],
            "--mixers attention-then-near: Expected `mixers` to be of ('attention', ",
        ),
        (["--joins", "near"], "unknown join 'near'"),
        (["--joins", "add,lr@rank=64"], "widths must be multiples of 16 above the rank, 64, not 32"),
        (["--seeds", 0], "--seeds must be at least 1, not 0"),
        (["--learning-rate", 0], "--learning-rate must be above 0, not 0"),
        (["--processes", -1], "--processes must be at least 0, not -1"),
        (["--text", "nowhere.txt", "--processes", 0], "cannot read the text nowhere.txt"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(arguments, message, tmp_path):
    outcome = invoke("run", *arguments, "--out", tmp_path / "study")
    assert (outcome.exit_code, outcome.stderr.count("error: ")) == (2, 1), outcome.output
    assert message in " ".join(outcome.stderr.split())

"""The command: which runs it makes, that it goes on, what it refuses, and what the report says of the records."""

import json

import pytest
from typer.testing import CliRunner

from applications.errors import UserError
from benchmarks import suite
from benchmarks.mad import __main__ as cli
from benchmarks.mad import report, runner
from benchmarks.mad.settings import MAD, SMOKE


def invoke(*arguments):
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


def jobs(seeds=(0,), tasks=("compression",), joins=("add",), **kwargs):
    return runner.jobs_of(SMOKE, tasks, None, ["mlp"], joins, [1e-3], [0.0], seeds, **kwargs)


def test_whole_seeds_come_one_after_the_other():
    names = [job.name for job in jobs(seeds=(0, 1), joins=("add", "rw"))]
    assert names == [
        f"compression.baseline.mlp.{join}.lr0.001-wd0.seed{seed}" for seed in (0, 1) for join in ("add", "rw")
    ]


def test_all_published_runs_of_one_architecture():
    grid = (["transformer"], ["add"], MAD.learning_rates, MAD.weight_decays, [0])
    assert len(runner.jobs_of(MAD, list(MAD.settings), None, *grid)) == 396


@pytest.mark.slow_on("tensorflow", "torch")
def test_a_suite_in_processes_of_its_own_goes_on_and_is_reported(tmp_path):
    command = ("run", "--protocol", "smoke", "--tasks", "compression", "--architectures", "mlp", "--joins", "add,rw")
    command = (*command, "--processes", 2, "--seeds", 1, "--first-seed", 3, "--out", tmp_path)
    outcome = invoke(*command)
    assert outcome.exit_code == 0, outcome.output
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == [f"compression.baseline.mlp.{join}.lr0.001-wd0.seed3.json" for join in ("add", "rw")]
    record = json.loads((tmp_path / names[0]).read_text())
    assert (record["program"], record["settings"]["join"]) == ("mad", "add")

    (tmp_path / names[1]).unlink()
    before = (tmp_path / names[0]).stat().st_mtime_ns
    outcome = invoke(*command, "--processes", 0)
    assert "1 of 2 runs are there already" in outcome.output
    assert (tmp_path / names[0]).stat().st_mtime_ns == before
    assert len(list(tmp_path.iterdir())) == 2

    outcome = invoke("report", tmp_path, "--details", "--plot", tmp_path / "plot.png")
    assert outcome.exit_code == 0, outcome.output
    assert "95% after" in outcome.output
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_a_record_of_other_settings_or_a_broken_one_is_named(tmp_path):
    (job,) = jobs(rank=2)
    path = tmp_path / f"{job.name}.json"
    path.write_text(json.dumps({"settings": {**job.settings, "rank": 3}}))
    with pytest.raises(UserError, match="is a run with other settings"):
        suite.missing([job], tmp_path)
    path.write_text('{"settings"')
    with pytest.raises(UserError, match="is no whole record: remove it"):
        suite.missing([job], tmp_path)
    path.unlink()
    assert suite.missing([job], tmp_path) == [job]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "--protocol", "near"], "unknown protocol 'near'; known: mad-cpu, mad"),
        (["run", "--tasks", "near"], "unknown task 'near'; known: in-context-recall"),
        (["run", "--settings", "hard"], "unknown setting 'hard'; known: baseline, headroom"),
        (["run", "--architectures", "near"], "unknown architecture 'near'; known: transformer"),
        (["run", "--joins", "add,near"], "unknown join 'near'; known: add, rw"),
        (["run", "--joins", "rw@near=1"], "unknown setting 'near'; known: rank, num_activations"),
        (["run", "--joins", "rw@residual_weights=near"], "rw@residual_weights=near: Expected the form of the residual"),
        (["run", "--joins", "lr@rank=128"], "lr@rank=128 at rank 128: the rank must be below 128"),
        (["run", "--joins", "add,add"], "--joins names 'add' twice"),
        (["run", "--seeds", 0], "--seeds must be at least 1, not 0"),
        (["run", "--processes", -1], "--processes must be at least 0, not -1"),
        (["run", "--schedule", "linear"], "unknown schedule 'linear'; known: cosine, constant"),
        (["run", "--learning-rates", "fast"], "--learning-rates takes numbers divided by commas, not 'fast'"),
        (["run", "--weight-decays", "-1"], "--weight-decays must be at least 0, not -1"),
        (["report", "nowhere"], "there are no records in nowhere"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    outcome = invoke(*arguments)
    assert outcome.exit_code == 2, outcome.output
    assert message in outcome.stderr
    assert not list(tmp_path.iterdir())


def record(
    join,
    seed,
    micro,
    validation,
    rate=1e-3,
    solved_at=None,
    macro=0.1,
    task="compression",
    weights=100,
    architecture="transformer",
):
    return {
        "settings": {
            "task": task,
            "setting": {"label": "baseline"},
            "architecture": architecture,
            "join": join,
            "learning_rate": rate,
            "weight_decay": 0.0,
            "seed": seed,
        },
        "weights": weights,
        "state": 7,
        "validation": {"micro": validation},
        "test": {"micro": micro, "macro_per_batch": macro},
        "solved_at": solved_at,
        "date": f"2026-01-0{seed + 1}",
        **dict.fromkeys(
            ("program", "command", "commit", "dirty", "device", "cores", "precision", "versions", "backend")
        ),
    }


def test_the_rate_is_chosen_by_validation_and_not_by_the_test():
    records = [
        record("add", 0, 0.9, 0.5, 1e-3, macro=0.8),
        record("add", 1, 0.9, 0.5, 1e-3, macro=0.6),
        record("add", 0, 0.7, 0.6, 5e-4, solved_at=10),
        record("add", 1, 0.8, 0.6, 5e-4),
        record("add", 2, 0.1, 0.9, 5e-4),  # a seed that the other rate does not have
    ]
    (row,) = report.cells(report.combined(records))
    assert row["learning_rate"] == 5e-4
    assert row["scores"] == {0: 0.7, 1: 0.8}
    assert row["best_of_grid"] == pytest.approx(0.7)  # of 0.8 and 0.6
    assert report.steps_to_solve(row["solved_at"]) == "10 steps, 1 of 2 never"


def test_a_rate_at_which_a_run_diverged_is_not_chosen():
    diverged = {**record("add", 1, 0.9, 0.9, 1e-3), "test": None, "validation": None}
    records = [record("add", 0, 0.9, 0.9, 1e-3), diverged]
    assert report.cells(report.combined(records)) == []
    records += [record("add", seed, 0.4, 0.3, 5e-4) for seed in (0, 1)]
    (row,) = report.cells(report.combined(records))
    assert (row["learning_rate"], row["scores"]) == (5e-4, {0: 0.4, 1: 0.4})


def test_the_table_worked_by_hand():
    records = [record("add", seed, score, 0.5) for seed, score in enumerate((0.5, 0.6, 0.7))]
    records += [record("rw", seed, score, 0.5, weights=102) for seed, score in enumerate((0.6, 0.8, 0.9))]
    header, rows = report.table_cells(report.combined(records))
    assert header == ["architecture", "join", "weights", "seeds", "compression", "mean", "beside add"]
    # Differences 0.1, 0.2, 0.2: mean 1/6, deviation 0.0577, and 4.303 standard errors of three.
    assert rows == [
        ["transformer", "add", "100", "3", "60.0 ± 10.0", "60.0 ± 10.0", ""],
        ["transformer", "rw", "102", "3", "76.7 ± 15.3", "76.7 ± 15.3", "+16.7 ± 14.3"],
    ]


def test_joins_with_other_settings_and_of_other_papers_come_after_their_word(tmp_path):
    order = ["add", "rw", "rw@per_channel=true", "rw+lr", "hyperconnections"]
    found = report.combined([record(join, 0, 0.5, 0.5) for join in reversed(order)])
    assert [row["join"] for row in report.cells(found)] == order
    report.plot(found, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_the_mean_is_over_what_the_plain_residual_has_too():
    records = [record("add", 0, 0.5, 0.5), record("rw", 0, 0.7, 0.5), record("rw", 0, 0.1, 0.5, task="memorization")]
    rows = report.summary(report.combined(records))
    assert rows[1]["tasks"].keys() == {"compression"}
    assert rows[1]["mean"] == {0: 0.7}


def test_a_join_with_fewer_tasks_is_compared_over_those_and_has_no_mean():
    records = [record("add", 0, 0.5, 0.5), record("add", 0, 0.1, 0.5, task="memorization"), record("rw", 0, 0.7, 0.5)]
    _, rows = report.table_cells(report.combined(records))
    assert [row[-2:] for row in rows] == [["30.0", ""], ["", "+20.0"]]


def test_a_wider_network_is_compared_with_the_one_that_it_is_the_control_of():
    records = [
        record("add", 0, 0.5, 0.5),
        record("rw", 0, 0.7, 0.5),
        record("add", 0, 0.6, 0.5, architecture="transformer-wide"),
        record("rw", 0, 0.9, 0.5, architecture="transformer-wide"),
    ]
    for cells in (report.table_cells, report.detail_cells):
        header, rows = cells(report.combined(records))
        assert [row[header.index("beside add")] for row in rows] == ["", "+20.0", "+10.0", "+30.0"]


@pytest.mark.parametrize(
    ("steps", "words"), [([5, 1, 9], "5 steps"), ([None, None], "never"), ([None, 4, None], "never, 2 of 3 never")]
)
def test_steps_to_solve_count_those_that_never_did_as_latest(steps, words):
    assert report.steps_to_solve(steps) == words

"""The command: which runs it makes, that it goes on, and what it refuses."""

import json

import pytest
from typer.testing import CliRunner

from applications.errors import UserError
from benchmarks import suite
from benchmarks.mad import __main__ as cli
from benchmarks.mad import runner
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

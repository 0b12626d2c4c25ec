"""Mixers and joins of a user's own: the document's file runs, and what is refused."""

import re

import pytest
from typer.testing import CliRunner

from applications import peers
from applications.errors import UserError
from benchmarks.mad import __main__ as cli
from benchmarks.mad import architectures, plugin, report
from benchmarks.report import ROOT
from benchmarks.suite import records_of

README = (ROOT / "benchmarks" / "mad" / "README.md").read_text("utf-8")
(EXAMPLE,) = [block for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "MIXERS" in block]


@pytest.fixture(autouse=True)
def forgotten(monkeypatch):
    monkeypatch.setattr(plugin, "_loaded", set())
    monkeypatch.setattr(plugin, "MIXERS", dict(architectures.MIXERS))
    monkeypatch.setattr(architectures, "MIXERS", plugin.MIXERS)
    before = dict(peers.PEERS)
    yield
    peers.PEERS.clear()
    peers.PEERS.update(before)


def write(tmp_path, text):
    path = tmp_path / "my_layers.py"
    path.write_text(text)
    return path


@pytest.mark.slow_on("tensorflow", "torch")
def test_the_documents_file_runs_in_processes_of_its_own_and_is_reported(tmp_path):
    path, out = write(tmp_path, EXAMPLE), tmp_path / "out"
    options = ["--protocol", "smoke", "--tasks", "in-context-recall", "--architectures", "token-shift-then-mlp"]
    options += ["--joins", "add,normed", "--seeds", 1, "--processes", 1, "--plugin", path, "--out", out]
    outcome = CliRunner().invoke(cli.app, ["run", *map(str, options)])
    assert outcome.exit_code == 0, outcome.output
    names = sorted(record.name.split(".lr")[0] for record in out.glob("*.json"))
    assert names == [f"in-context-recall.baseline.token-shift-then-mlp.{join}" for join in ("add", "normed")]
    assert {record["settings"]["plugin_version"] for record in records_of(out)} == {plugin.load_plugin(str(path))}


def test_a_changed_file_has_another_version(tmp_path):
    versions = [plugin.load_plugin(str(write(tmp_path, f"MIXERS = {{'{name}': None}}"))) for name in ("one", "two")]
    assert versions[0] != versions[1]


def test_a_report_needs_no_plugin(tmp_path):
    settings = {"task": "compression", "setting": {"label": "baseline"}, "learning_rate": 1e-3, "weight_decay": 0.0}
    scores = {"validation": {"micro": 0.5}, "test": {"micro": 0.5, "macro_per_batch": 0.5}, "solved_at": None}
    runs = [
        {"settings": {**settings, "architecture": "mine", "join": join, "seed": 0}, "weights": 1, "state": 0, **scores}
        for join in ("own", "add")
    ]
    assert [row[:2] for row in report.table_cells({"runs": runs})[1]] == [["mine", "add"], ["mine", "own"]]
    report.plot({"runs": runs}, tmp_path / "plot.png")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has neither MIXERS nor JOINS"),
        ("MIXERS = {'attention': None}", "has the name 'attention', which is taken"),
        ("MIXERS = {'mamba': None}", "has the name 'mamba', which is taken"),
        ("JOINS = {'rw': None}", "has the name 'rw', which is taken"),
        ("JOINS = {'rw+mine': None}", r"has the name 'rw\+mine'; take lower case letters"),
        ("MIXERS = {'one-then-two': None}", "has the name 'one-then-two'; take lower case letters"),
    ],
)
def test_what_a_plugin_must_not_be_is_said(text, message, tmp_path):
    path = write(tmp_path, text)
    with pytest.raises(UserError, match=message):
        plugin.load_plugin(str(path))


def test_a_file_that_is_not_there_is_one_line_and_exit_code_2(tmp_path):
    outcome = CliRunner().invoke(cli.app, ["run", "--plugin", str(tmp_path / "none.py")])
    assert (outcome.exit_code, outcome.stderr.count("error: ")) == (2, 1)
    assert "cannot read the plugin" in outcome.stderr

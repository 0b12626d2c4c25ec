"""What PyTorch keeps of a forward pass for its gradient."""

import json

import keras
import pytest
from typer.testing import CliRunner

from benchmarks import kept_memory, kept_memory_report
from benchmarks.report import PROGRAMS

of_torch = pytest.mark.skipif(keras.backend.backend() != "torch", reason="of PyTorch")


@of_torch
def test_bytes_worked_by_hand():
    import torch

    x, weight = torch.ones(8, requires_grad=True), keras.Variable([2.0] * 8)
    # The square keeps x and the product keeps the square and the weights; a view's memory is that of x.
    assert kept_memory.kept_bytes(lambda: x.view(2, 4).view(8) ** 2 * weight.value, [weight]) == 2 * 8 * 4


def test_table_and_plot_worked_by_hand(tmp_path):
    variants = {"add": {"weights": 1000, "kept": 8_000_000}, "rw": {"weights": 1002, "kept": 8_400_000}}
    result = {"settings": {"num_layers": 2, "batch_size": 2}, "variants": variants}
    assert kept_memory_report.table_cells(result) == (
        ["variant, 2 blocks", "weights", "MB kept, a block and sequence", "ratio"],
        [["add", "1,000", "2.00", "1.000"], ["rw", "1,002", "2.10", "1.050"]],
    )
    assert PROGRAMS["kept_memory"] is kept_memory_report
    kept_memory_report.plot(result, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


@of_torch
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--variants", "nearly"), "unknown variant 'nearly'"),
        (("--size", "huge"), "unknown size 'huge'"),
        (("--length", 0), "--length must be at least 1, not 0"),
    ],
)
def test_an_option_out_of_range_is_refused(arguments, message, tmp_path):
    outcome = CliRunner().invoke(kept_memory.app, ["--out", str(tmp_path / "r.json"), *map(str, arguments)])
    assert (outcome.exit_code, message in outcome.stderr) == (2, True), outcome.output


@of_torch
def test_it_records_each_variant(tmp_path, monkeypatch):
    monkeypatch.setattr(kept_memory, "measure", lambda variant, *shape: {"weights": 1, "kept": len(variant)})
    arguments = ["--out", str(tmp_path / "r.json"), "--variants", "add,rw"]
    outcome = CliRunner().invoke(kept_memory.app, arguments)
    assert outcome.exit_code == 0, outcome.output
    record = json.loads((tmp_path / "r.json").read_text())
    assert record["program"] == "kept_memory"
    assert record["variants"] == {"add": {"weights": 1, "kept": 3}, "rw": {"weights": 1, "kept": 2}}

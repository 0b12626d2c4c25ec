import json

import keras
import pytest
from typer.testing import CliRunner

from benchmarks import join_cost, join_cost_report
from benchmarks.join import needs

MODE = {"jax": "jit", "tensorflow": "graph", "torch": "eager"}[keras.backend.backend()]


def invoke(*arguments):
    return CliRunner().invoke(join_cost.app, [str(argument) for argument in arguments])


def test_a_run_records_the_seconds_of_each_round_and_prints_and_plots_them(tmp_path):
    path = tmp_path / "new" / "join.json"
    options = ("--variants", "add,rw+lr+pa", "--shape", "2x3x8", "--rank", 2, "--rounds", 2, "--modes", MODE)
    outcome = invoke(*options, "--out", path)
    assert outcome.exit_code == 0, outcome.output
    result = json.loads(path.read_text())
    measured = result["modes"][MODE]
    records = [*measured["rates"].values(), *(part for join in measured["joins"].values() for part in join.values())]
    assert len(records) == 2 + 2 * 2
    assert all(len(seconds) == 2 for record in records for seconds in record["seconds"].values())
    assert f"rw+lr+pa, {MODE}" in outcome.output
    join_cost_report.plot(result, tmp_path / "join.png")
    assert (tmp_path / "join.png").stat().st_size > 0


@pytest.mark.parametrize(
    ("name", "part", "tensors", "flops"),
    [
        ("add", "forward", 3, 0),  # x, fx; y
        ("add", "both", 3, 0),  # both gradients are the output's own
        ("rw", "both", 8, 0),  # and dy, x, fx; dx, dfx
        ("pa", "forward", 5, 0),  # three states, fx; y
        ("lr", "forward", 3, 2 * 2 * 6 * 8 * 2),  # down and up, six rows
        ("rw+lr+pa", "both", 14, 3 * 3 * 2 * 2 * 6 * 8 * 2),  # and dy, three states, fx; as many gradients
    ],
)
def test_what_a_join_must_do(name, part, tensors, flops):
    assert needs(name, (2, 3, 8), 2, 3, part) == {"bytes": tensors * 48 * 4, "flops": flops}


@pytest.mark.parametrize(("device", "clock"), [("CPU (x86_64)", "cpu"), ("NVIDIA H100", "wall")])
def test_the_floor_is_the_time_of_the_bytes_and_of_the_flops_at_the_measured_rates(device, clock):
    rates = {
        "copy": {"needs": {"bytes": 10, "flops": 0}, "seconds": {clock: [1.0, 2.0, 3.0]}},
        "matmul": {"needs": {"bytes": 0, "flops": 4}, "seconds": {clock: [5.0, 5.0, 9.0]}},
    }
    by = join_cost_report.clock({"device": device})
    assert join_cost_report.floor(rates, {"bytes": 20, "flops": 8}, by) == 2 * 2.0 + 2 * 5.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--rounds", 0), "--rounds must be at least 1"),
        (("--shape", "2x3x8", "--rank", 8), "the last above the rank"),
        (("--shape", "2xa"), "must be sizes such as"),
        (("--modes", "slow"), "unknown mode 'slow'"),
        (("--variants", "nearly"), "unknown variant 'nearly'"),
    ],
)
def test_an_option_out_of_range_is_refused(arguments, message):
    outcome = invoke(*arguments)
    assert outcome.exit_code == 2
    assert message in outcome.output

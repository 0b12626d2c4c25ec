import json

import keras
import pytest
from typer.testing import CliRunner

from benchmarks import mixers_speed


def invoke(*arguments):
    return CliRunner().invoke(mixers_speed.app, [str(argument) for argument in arguments])


@pytest.mark.slow_on("jax", "tensorflow")
def test_a_run_records_the_seconds_of_each_round_and_prints_the_table(tmp_path):
    path = tmp_path / "new" / "speed.json"
    outcome = invoke("--length", 3, "--dim", 16, "--batch-size", 1, "--rounds", 2, "--out", path)
    assert outcome.exit_code == 0, outcome.output
    result = json.loads(path.read_text())
    assert (result["program"], result["backend"]) == ("mixers_speed", keras.backend.backend())
    assert list(result["groups"]) == ["selective scan", "linear attention", "long convolution", "layers"]
    for group in result["groups"].values():
        assert all(len(seconds) == 2 and min(seconds) > 0 for clocks in group.values() for seconds in clocks.values())
        assert all(name.split()[0] in outcome.output for name in group)


@pytest.mark.parametrize(
    ("arguments", "message"), [(("--rounds", 0), "--rounds must be at least 1"), (("--dim", 8), "a multiple of 16")]
)
def test_an_option_out_of_range_is_refused(arguments, message):
    outcome = invoke(*arguments)
    assert outcome.exit_code != 0
    assert message in outcome.output

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from applications.laurel_resnet50 import __main__ as cli


@pytest.mark.slow_on("jax", "tensorflow")  # which compile it long; smaller ones train there
def test_the_whole_network_trains_end_to_end(tmp_path):
    outcome = CliRunner().invoke(cli.app, ["train", "--smoke", "--out", str(tmp_path / "out")])
    assert outcome.exit_code == 0, outcome.output
    record = json.loads((tmp_path / "out" / "result.json").read_text())
    assert record["config"]["num_blocks"] == [3, 4, 6, 3]
    assert len(record["joins"]) == 16
    assert np.isfinite(record["epochs"][0]["loss"])
    assert np.isfinite(record["test"]["loss"])

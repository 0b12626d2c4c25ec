"""How long kernels run on a GPU: what is made of a profile, and what is refused without a GPU."""

import types

import keras
import numpy as np
import pytest
from typer.testing import CliRunner

from benchmarks import kernel_time, kernel_time_report
from benchmarks.report import PROGRAMS


def event(name, dur, tid=14, module="jit_train_step"):
    return {"ph": "X", "pid": 1, "tid": tid, "name": name, "dur": dur, "args": {"hlo_module": module}}


TRACE = {
    "traceEvents": [
        {"ph": "M", "pid": 1, "tid": 14, "name": "thread_name", "args": {"name": "Stream #14(Memset,Compute)"}},
        {"ph": "M", "pid": 1, "tid": 15, "name": "thread_name", "args": {"name": "Stream #15(MemcpyH2D)"}},
        {"ph": "M", "pid": 2, "tid": 14, "name": "process_name", "args": {"name": "/host:CPU"}},
        event("fusion", 3.0),
        event("fusion", 5.0),
        event("gemm", 20.0),
        event("copy", 7.0, tid=15),
        event("convert", 1.0, module="jit_convert"),
        {"pid": 1, "tid": 14, "name": "a counter"},
    ]
}


def test_kernels_are_those_of_the_training_step():
    assert kernel_time.kernels_of_trace(TRACE) == [("fusion", 3e-6), ("fusion", 5e-6), ("gemm", 2e-5)]


def test_what_is_recorded_is_of_one_step():
    model = types.SimpleNamespace(trainable_weights=[np.ones((2, 3)), np.ones(4)])
    found = kernel_time.summary(model, [("a", 2.0), ("b", 8.0), ("a", 2.0), ("b", 4.0)], 2)
    assert found == {"weights": 10, "kernels": 2, "seconds": 8.0, "largest": {"b": 6.0, "a": 2.0}}


def test_table_and_plot_worked_by_hand(tmp_path):
    variants = {
        "add": {"weights": 1000, "kernels": 10, "seconds": 0.010},
        "rw": {"weights": 1002, "kernels": 14, "seconds": 0.0104},
    }
    result = {"device": "a GPU", "settings": {"num_layers": 4}, "variants": variants}
    assert kernel_time_report.table_cells(result) == (
        ["variant, 4 blocks", "weights", "kernels", "ms", "ratio", "more, us a block"],
        [["add", "1,000", "10", "10.00", "1.000", "0"], ["rw", "1,002", "14", "10.40", "1.040", "100"]],
    )
    assert PROGRAMS["kernel_time"] is kernel_time_report
    kernel_time_report.plot(result, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.skipif(keras.backend.backend() == "tensorflow", reason="of JAX and PyTorch")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--variants", "nearly"), "unknown variant 'nearly'"),
        (("--size", "huge"), "unknown size 'huge'"),
        (("--steps", 0), "--steps must be at least 1, not 0"),
    ],
)
def test_an_option_out_of_range_is_refused(arguments, message, tmp_path):
    outcome = CliRunner().invoke(kernel_time.app, ["--out", str(tmp_path / "r.json"), *map(str, arguments)])
    assert (outcome.exit_code, message in outcome.stderr) == (2, True), outcome.output


def test_without_a_gpu_it_says_what_does_without(tmp_path):
    outcome = CliRunner().invoke(kernel_time.app, ["--out", str(tmp_path / "r.json")])
    message = "choose --backend jax or torch" if keras.backend.backend() == "tensorflow" else "benchmarks.gpu_compile"
    assert (outcome.exit_code, message in outcome.stderr) == (2, True), outcome.output
    assert not (tmp_path / "r.json").exists()

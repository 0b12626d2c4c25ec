import importlib.util
import json

import keras
import pytest
from typer.testing import CliRunner

from benchmarks import gpu_compile, gpu_compile_report
from benchmarks.kernels import kernels
from benchmarks.report import PROGRAMS

PROGRAM = """HloModule jit_f

%region (a: f32[], b: f32[]) -> f32[] {
  ROOT %add.1 = f32[] add(f32[] %a, f32[] %b)
}

ENTRY %main (p0: bf16[4,8], p1: f32[8]) -> (bf16[4,8], f32[]) {
  %p0 = bf16[4,8]{1,0} parameter(0)
  %p1 = f32[8]{0} parameter(1)
  %fusion = (bf16[4,8]{1,0}, f32[4]{0}) fusion(%p0, %p1), kind=kInput, calls=%fused
  %first = bf16[4,8]{1,0} get-tuple-element(%fusion), index=0
  %second = f32[4]{0} get-tuple-element(%fusion), index=1
  %view = bf16[32]{0} bitcast(%first)
  %reduce = f32[] reduce(%second, %zero), dimensions={0}, to_apply=%region
  ROOT %tuple = (bf16[4,8]{1,0}, f32[]) tuple(%first, %reduce)
}
"""


def test_kernels_and_their_bytes_worked_by_hand():
    program = PROGRAM.replace("  %fusion", "  %zero = f32[] constant(0)\n  %fusion")
    # two inputs of 64 and 32 bytes and two results of 64 and 16; 16 and 4 bytes to 4
    assert kernels(program) == [176, 24]


def test_a_loop_is_refused():
    with pytest.raises(ValueError, match="without loops"):
        kernels(PROGRAM.replace(" fusion(", " while("))


def test_table_and_plot_worked_by_hand(tmp_path):
    plain = {"weights": 1000, "kernels": 10, "moved": 2_000_000_000, "temporaries": 500_000_000}
    joined = {"weights": 1002, "kernels": 12, "moved": 2_100_000_000, "temporaries": 500_000_000}
    result = {
        "device": "a GPU, compiled on CPU",
        "settings": {"num_layers": 4},
        "variants": {"add": plain, "rw": joined},
    }
    assert gpu_compile_report.table_cells(result) == (
        ["variant, 4 blocks", "weights", "kernels", "ratio", "GB moved", "ratio", "GB held", "ratio"],
        [
            ["add", "1,000", "10", "1.000", "2.00", "1.000", "0.500", "1.000"],
            ["rw", "1,002", "12", "1.200", "2.10", "1.050", "0.500", "1.000"],
        ],
    )
    assert PROGRAMS["gpu_compile"] is gpu_compile_report
    gpu_compile_report.plot(result, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="of JAX")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--variants", "nearly"), "unknown variant 'nearly'"),
        (("--gpu", "tpu"), "unknown gpu 'tpu'; known: h100, h200"),
        (("--size", "huge"), "unknown size 'huge'"),
        (("--batch-size", 0), "--batch-size must be at least 1, not 0"),
    ],
)
def test_an_option_out_of_range_is_refused(arguments, message, tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_compile.os, "environ", {})
    outcome = CliRunner().invoke(gpu_compile.app, ["--out", str(tmp_path / "r.json"), *map(str, arguments)])
    assert (outcome.exit_code, message in outcome.stderr) == (2, True), outcome.output


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="of JAX")
@pytest.mark.skipif(importlib.util.find_spec("jax_plugins") is not None, reason="the compiler is there")
def test_without_the_compiler_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_compile.os, "environ", {})
    outcome = CliRunner().invoke(gpu_compile.app, ["--out", str(tmp_path / "r.json")])
    assert (outcome.exit_code, "pip install 'jax[cuda13]'" in outcome.stderr) == (2, True), outcome.output


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="of JAX")
def test_a_record_of_other_settings_is_left_alone(tmp_path, monkeypatch):
    path = tmp_path / "r.json"
    path.write_text(json.dumps({"settings": {"size": "small"}}))
    with pytest.raises(gpu_compile.UserError, match="other settings"):
        gpu_compile._begun(path, {"size": "157m"}, "a GPU")
    assert json.loads(path.read_text()) == {"settings": {"size": "small"}}

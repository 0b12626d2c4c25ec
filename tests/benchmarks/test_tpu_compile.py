import functools
import json
from types import SimpleNamespace

import keras
import pytest
from processes import run_python
from typer.testing import CliRunner

from benchmarks import abstract_step, tpu_compile, tpu_compile_report, tpu_scaling_report
from benchmarks.report import PROGRAMS

MEASURED = {
    "weights": 1000,
    "compile_seconds": 2.0,
    "memory": {"arguments": 4, "outputs": 3, "aliased": 2, "temporaries": 2**30 - 5},
    "flops": 1e12,
    "bytes_accessed": 2e9,
    "collectives": [{"kind": "all-gather", "group": 2, "count": 1, "bytes": 6_000_000}],
}


@pytest.fixture(autouse=True)
def _restored(monkeypatch):
    """Puts back what the command sets for its own process."""
    monkeypatch.setenv("KERAS_BACKEND", keras.backend.backend())
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    policy = keras.config.dtype_policy()
    yield
    keras.config.set_dtype_policy(policy)


@pytest.fixture
def compiled(monkeypatch):
    """Takes the place of the compiler, and lists what it was to compile."""
    jobs = []

    def measure(build, lower, batch, devices, mesh, layout_map):
        jobs.append((*build.args, batch[1].shape, mesh))
        return MEASURED

    chip = SimpleNamespace(device_kind="some TPU")
    monkeypatch.setattr(abstract_step, "measure", measure)
    monkeypatch.setattr(abstract_step, "tpus", lambda topology: [chip] * 16)
    return jobs


def invoke(*arguments):
    return CliRunner().invoke(tpu_compile.app, [str(argument) for argument in arguments])


def test_each_record_is_made_once_and_says_what_it_is(tmp_path, compiled):
    arguments = ["decoder", "--variants", "add,rw", "--num-layers", "2,4", "--mesh", "4x4", "--out", tmp_path]
    outcome = invoke(*arguments)
    assert outcome.exit_code == 0, outcome.output
    jobs = [("add", 2), ("rw", 2), ("add", 4), ("rw", 4)]
    assert compiled == [(*job, (256, 512), (4, 4)) for job in jobs]
    assert "24 blocks from 2 and 4" in outcome.output
    record = json.loads((tmp_path / "v6e_4x4_4x4_rw_4.json").read_text())
    assert record["command"] == (
        "python -m benchmarks.tpu_compile decoder --size 157m --joins block --topology v6e:4x4 --mesh 4x4 "
        f"--batch-size 256 --length 512 --num-layers 4 --variants rw --out {tmp_path}"
    )
    assert (record["chips"], record["precision"]) == (16, "mixed_bfloat16")
    assert record["device"].startswith("some TPU, 16 chips, compiled on ")
    assert invoke(*arguments).exit_code == 0
    assert len(compiled) == 4
    outcome = invoke(*arguments, "--length", 8)
    assert outcome.exit_code == 2
    assert "is a record with other settings" in outcome.stderr


def test_resnet_has_images_for_a_batch(tmp_path, compiled):
    outcome = invoke("resnet50", "--variants", "add+1", "--batch-size", 32, "--out", tmp_path)
    assert outcome.exit_code == 0, outcome.output
    assert compiled == [("add+1", None, (32,), None)]
    assert (tmp_path / "v6e_4x4_data_add+1.json").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["decoder", "--size", "huge"], "unknown size 'huge'; known: tiny, small"),
        (["decoder", "--joins", "none"], "unknown joins 'none'; known: block, sublayer"),
        (["decoder", "--step", "first"], "unknown step 'first'; known: train, prefill, decode"),
        (["decoder", "--variants", "add,near"], "unknown variant 'near'; known: add, rw"),
        (["decoder", "--num-layers", "2,0"], "--num-layers must be at least 1, not 0"),
        (["decoder", "--mesh", "4"], "--mesh must be data or DATAxMODEL, such as 4x4, not '4'"),
        (["decoder", "--mesh", "2x4"], "--mesh 2x4 has 8 chips, v6e:4x4 16"),
        (["decoder", "--batch-size", 24], "--batch-size must be a multiple of 16, not 24"),
        (["resnet50", "--batch-size", 0], "--batch-size must be a multiple of 16, not 0"),
        (["resnet50", "--image-size", 31], "--image-size must be at least 32, not 31"),
    ],
)
@pytest.mark.usefixtures("compiled")
def test_bad_input_is_one_line_and_exit_code_2(arguments, message, tmp_path):
    outcome = invoke(*arguments, "--out", tmp_path)
    assert (outcome.exit_code, outcome.stderr.count("error: ")) == (2, 1), outcome.output
    assert message in outcome.stderr


def test_a_missing_compiler_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(abstract_step.importlib.util, "find_spec", lambda name: None)
    monkeypatch.delenv("TPU_LIBRARY_PATH", raising=False)
    with pytest.raises(abstract_step.UserError, match=r"pip install 'keras-laurel\[tpu-compile\]'"):
        abstract_step.tpus("v6e:4x4")


# The compiler is JAX's whatever the backend, and once is enough.
on_jax = pytest.mark.skipif(keras.backend.backend() != "jax", reason="tested with JAX's other tests")

# The CPU's compiler in place of the TPU's, for eight devices.
STEP = """
import json, os, sys
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
import jax
from benchmarks import abstract_step
from benchmarks.tpu_compile import _decoder, _tokens
from keras_laurel.applications.laurel_decoder.layout import layout_map

models = []
def build():
    models.append(_decoder("rw+lr", 1, "tiny", "block", False))
    return models[-1]

mesh = tuple(json.loads(sys.argv[1])) or None
lower = getattr(abstract_step, sys.argv[2])
found = abstract_step.measure(build, lower, _tokens(16, 8), jax.devices(), mesh, layout_map)
values = [weight._value for weight in models[0].weights + models[0].optimizer.variables]
print(json.dumps({**found, "values": sum(isinstance(value, jax.Array) and value.size > 1 for value in values)}))
"""


@functools.cache
def step(*mesh, lower="train"):
    return json.loads(run_python(STEP, json.dumps(mesh), lower, backend="jax").splitlines()[-1])


@on_jax
def test_data_parallelism_holds_all_weights_and_exchanges_all_gradients():
    found = step()
    assert found["values"] == 0
    state = 3 * 4 * found["weights"]  # with AdamW's moments, in float32
    assert state < found["memory"]["arguments"] < state + 500
    gradients = sum(entry["bytes"] for entry in found["collectives"] if entry["kind"] == "all-reduce")
    assert 4 * found["weights"] <= gradients < 4 * found["weights"] * 1.5
    assert {entry["group"] for entry in found["collectives"]} == {8}


@on_jax
def test_model_parallelism_divides_the_weights():
    found = step(4, 2)
    assert found["values"] == 0
    assert found["memory"]["arguments"] < 3 * 4 * found["weights"] / 2
    assert {2, 4} <= {entry["group"] for entry in found["collectives"]}


@on_jax
def test_model_parallelism_divides_the_work():
    assert step(4, 2)["flops"] < 1.1 * step()["flops"]


@on_jax
def test_inference_holds_no_gradients_and_its_cache_once():
    training, prompt, token = step(), step(lower="prefill"), step(lower="decode")
    assert (prompt["values"], token["values"]) == (0, 0)
    assert 4 * prompt["weights"] < prompt["memory"]["arguments"] < 4 * prompt["weights"] + 500
    assert token["flops"] < prompt["flops"] < training["flops"] / 3
    assert token["memory"]["aliased"] > 0  # the cache takes its own place
    assert prompt["collectives"] == token["collectives"] == []


def record(variant, num_layers, mib, mesh="data", chips=16, sent=1, group=4):
    settings = {"size": "157m", "joins": "block", "mesh": mesh, "model_layers": 24}
    return {
        **MEASURED,
        **dict.fromkeys(("command", "commit", "dirty", "cores", "precision", "backend", "device"), ""),
        "program": "tpu_compile",
        "date": f"{num_layers}",
        "versions": {},
        "chips": chips,
        "settings": {**settings, "variant": variant, "num_layers": num_layers},
        "memory": {"arguments": 0, "outputs": 0, "aliased": 0, "temporaries": mib * 2**20},
        "collectives": [{"kind": "all-gather", "group": group, "count": 1, "bytes": sent * 1_000_000}],
    }


def test_table_goes_on_in_a_straight_line(tmp_path):
    sizes = {("add", 2): 102, ("add", 4): 204, ("rw", 2): 103, ("rw", 4): 206}
    result = tpu_compile_report.combined([record(*key, mib) for key, mib in sizes.items()])
    header, rows = tpu_compile_report.table_cells(result)
    assert header[:5] == ["variant, 24 blocks from 2 and 4", "weights, M", "peak, GiB", "ratio", "paper's"]
    assert header[-3:] == ["MB sent", "ratio", "exchanges"]
    assert [row[-3:] for row in rows] == [["0.8", "1.000", "1"]] * 3
    assert [row[:5] for row in rows] == [
        ["add", "0.00", "1.195", "1.000", "1.000"],
        ["rw", "0.00", "1.207", "1.010", "1.024"],
        ["add+4", "0.00", "1.395", "1.167", "1.136"],
    ]
    assert PROGRAMS["tpu_compile"] is tpu_compile_report
    tpu_compile_report.plot(result, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_a_compiled_whole_model_needs_no_line():
    result = tpu_compile_report.combined([record("add", 24, 1024), record("add", 2, 1)])
    assert tpu_compile_report.figures(result)["add"]["peak"] == 1


def test_memory_of_blocks_that_are_computed_again_is_on_no_line():
    records = [record("add", 1, 300), record("add", 2, 200)]
    for each in records:
        each["settings"]["remat"] = True
    header, rows = tpu_compile_report.table_cells(tpu_compile_report.combined(records))
    assert header[2] == "peak of 2 blocks, GiB"
    assert [row[2] for row in rows] == ["0.195", ""]


def test_traffic_of_the_largest_slice_is_by_formula(tmp_path):
    records = [
        record(variant, 24, 0, mesh, chips, sent, group)
        for mesh, chips, group in (("data", 16, 16), ("data", 256, 256), ("64x4", 256, 64))
        for variant, sent in (("add", 256), ("rw", 512))
    ]
    result = tpu_scaling_report.combined(records)
    header, rows = tpu_scaling_report.table_cells(result)
    assert header == ["slice", "add, MB sent", "rw adds"]
    assert rows == [
        ["data, 16 chips", "240.0", "+240.00 (2.000)"],
        ["data, 256 chips", "255.0", "+255.00 (2.000)"],
        ["data, 1,024 chips, by formula", "255.8", "+255.75 (2.000)"],
        ["data 64 by model 4", "252.0", "+252.00 (2.000)"],
        ["data 256 by model 4, by formula", "255.0", "+255.00 (2.000)"],
    ]
    assert PROGRAMS["tpu_scaling"] is tpu_scaling_report
    tpu_scaling_report.plot(result, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")

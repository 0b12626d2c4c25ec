import json

import keras
import numpy as np
import pytest
from typer.testing import CliRunner

from benchmarks import decoder, generate_speed, generate_speed_report
from benchmarks.report import PROGRAMS
from keras_laurel.mixers import Mamba

TINY = ("--num-layers", 1, "--hidden-dim", 64, "--batch-size", 1, "--length", 9, "--rounds", 2)


def invoke(*arguments):
    return CliRunner().invoke(generate_speed.app, [str(argument) for argument in arguments])


@pytest.fixture(autouse=True)
def _small_vocabulary(monkeypatch):
    monkeypatch.setattr(decoder, "VOCABULARY_SIZE", 10)


def test_a_run_records_the_seconds_of_each_round_and_prints_the_table(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    outcome = invoke("--variants", "llama,rw", *TINY)
    assert outcome.exit_code == 0, outcome.output
    backend = keras.backend.backend()
    result = json.loads((tmp_path / "runs" / f"generate_speed_{backend}.json").read_text())
    assert (result["program"], result["backend"], result["new_tokens"]) == ("generate_speed", backend, 1)
    assert result["command"] == (
        "python -m benchmarks.generate_speed --variants llama,rw --num-layers 1 --hidden-dim 64 --batch-size 1 "
        f"--length 9 --rounds 2 --backend {backend}"
    )
    llama, rw = result["variants"].values()
    assert rw["weights"] == llama["weights"] + 4  # two scalars for each of two joins
    for variant in (llama, rw):
        assert variant["compile_seconds"] > 0
        assert list(variant["seconds"]) == ["prefill", "decode"]
        assert all(len(clock) == 2 for mode in variant["seconds"].values() for clock in mode.values())
    assert "decode, tokens/s" in outcome.output


def test_options_reach_the_models(monkeypatch):
    built = []
    monkeypatch.setattr(decoder, "build", lambda *arguments: built.append(arguments) or 1 / 0)
    assert isinstance(invoke("--variants", "add", "--num-layers", 3, "--hidden-dim", 128).exception, ZeroDivisionError)
    assert built == [("add", 3, 128)]


def test_a_variant_may_have_another_mixer():
    model = decoder.build("add@mixers=mamba", 1, 64)
    assert type(model.backbone.transformer_layers[0].mixer) is Mamba


def test_a_variant_may_be_folded():
    model = decoder.build("rw+lr@folded", 1, 64)
    assert model.backbone.residual == "lr"


def test_llama_and_the_plain_decoder_are_the_same_model():
    models = {name: decoder.build(name, 2, 64) for name in ("llama", "add")}
    llama, plain = (sorted(model.weights, key=lambda weight: _place(weight.path)) for model in models.values())
    assert [weight.shape for weight in llama] == [weight.shape for weight in plain]
    for weight, source in zip(plain, llama):
        weight.assign(source)
    inputs = {"token_ids": np.array([[1, 2, 3, 4]]), "padding_mask": np.array([[1, 1, 1, 1]])}
    expected, logits = (keras.ops.convert_to_numpy(model(inputs)) for model in models.values())
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-5)


def _place(path: str):
    """Returns the path of a weight as the decoder has it, for one of keras_hub's Llama."""
    names = {
        "self_attention_layernorm": "mixer_norm",
        "feedforward_layernorm": "feedforward_norm",
        "sequence_output_layernorm": "output_norm",
        "self_attention": "attention",
        "feedforward_gate_dense": "feedforward/gate",
        "feedforward_intermediate_dense": "feedforward/up",
        "feedforward_output_dense": "feedforward/output",
    }
    return "/".join(names.get(part, part) for part in path.split("/"))


def test_prompts_are_padded_to_the_length():
    inputs = decoder.prompts(2, 5, 3)
    assert inputs["padding_mask"].tolist() == [[1, 1, 1, 0, 0]] * 2
    assert ((inputs["token_ids"] > 0) == inputs["padding_mask"]).all()
    assert inputs["token_ids"].max() < 10


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--variants", "add,near"], "unknown variant 'near'; known: llama, add, rw"),
        (["--variants", "add,add"], "a variant is named twice in 'add,add'"),
        (["--num-layers", 0], "--num-layers must be at least 1, not 0"),
        (["--hidden-dim", 96], "--hidden-dim must be a multiple of 64, not 96"),
        (["--hidden-dim", 0], "--hidden-dim must be a multiple of 64, not 0"),
        (["--batch-size", 0], "--batch-size must be at least 1, not 0"),
        (["--length", 8], "--length must be at least 9, not 8"),
        (["--rounds", 0], "--rounds must be at least 1, not 0"),
        (["--backend", "numpy"], "unknown backend 'numpy'; known: jax, tensorflow, torch"),
        (["--out", "file/below.json"], "cannot write to the folder file"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    outcome = invoke(*arguments)
    assert (outcome.exit_code, outcome.stderr.count("error: ")) == (2, 1), outcome.output
    assert message in outcome.stderr


def test_table_and_plot_worked_by_hand(tmp_path):
    result = {
        "backend": "jax",
        "device": "some accelerator",
        "new_tokens": 3000,
        "variants": {
            "llama": {
                "weights": 1000,
                "seconds": {"prefill": {"wall": [0.02, 0.04, 0.02]}, "decode": {"wall": [1.0, 1.0, 1.0]}},
            },
            "rw": {
                "weights": 1002,
                "seconds": {"prefill": {"wall": [0.022, 0.04, 0.024]}, "decode": {"wall": [1.0, 0.5, 2.0]}},
            },
        },
    }
    header = ["variant", "weights", "prefill, ms", "prefill, ratio of time"]
    header += ["decode, tokens/s", "decode, ratio of time"]
    rows = [
        ["llama", "1,000", "20.0", "1.000 (1.000-1.000)", "3,000", "1.000 (1.000-1.000)"],
        ["rw", "1,002", "24.0", "1.100 (1.050-1.150)", "3,000", "1.000 (0.750-1.500)"],
    ]
    assert generate_speed_report.table_cells(result) == (header, rows)
    assert PROGRAMS["generate_speed"] is generate_speed_report
    PROGRAMS["generate_speed"].plot(result, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")

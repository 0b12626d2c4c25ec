"""The table of several results: what stands where, and what is bold."""

import pytest

from benchmarks import overview


def deep(*losses, steps=100):
    return [
        {"seed": seed, "config": {"steps": steps}, "test": dict.fromkeys(("loss", "perplexity", "bits_per_byte"), loss)}
        for seed, loss in enumerate(losses)
    ]


def images(*accuracies):
    return [{"seed": seed, "test": {"accuracy": accuracy}} for seed, accuracy in enumerate(accuracies)]


def times(*seconds):
    return {"seconds": {"train": {"wall": list(seconds)}}}


RESULTS = {
    "cpp_docs_deep": {"variants": {"add": deep(2.0, 3.0), "rw": deep(1.9, 2.9), "add+4": deep(2.1)}},
    "cpp_docs_deep_settings": {
        "variants": {"add": deep(2.0, 3.0), "rw": deep(0, 0), "rw@joins=sublayer": deep(1.8, 2.8)}
    },
    "cifar10_small": {"variants": {"add": images(0.5, 0.5), "rw": images(0.51, 0.53)}},
    "decoder_sublayer_step_time_jax": {"variants": {"llama": times(9, 9), "add": times(2, 2), "rw": times(3, 5)}},
    "resnet50_step_time_jax": {"variants": {"keras": times(1, 1), "add": times(4, 4), "add+1": times(5, 5)}},
    "decoder_157m_sublayer_v6e": {
        "settings": {"model_layers": 24},
        "variants": {
            name: [
                {
                    "settings": {"num_layers": 24},
                    "weights": 1,
                    "memory": {"arguments": memory, "outputs": 0, "aliased": 0, "temporaries": 0},
                    "flops": 1,
                    "bytes_accessed": 1,
                    "collectives": [],
                }
            ]
            for name, memory in {"add": 4, "rw": 5}.items()
        },
    },
}


@pytest.fixture
def rows():
    header, rows = overview.table_cells(RESULTS.__getitem__)
    assert {len(header)} == {len(row) for row in rows}
    return {row[0]: row[1:] for row in rows}


def test_each_column_is_beside_the_plain_residual(rows):
    # Two differences of 1 and 3 points: 2 in the mean, a standard error of 1, and 12.7 of them by Student's t.
    assert rows["`rw`"] == [
        "**-0.1000 nats** (-0.1000 to -0.1000)",
        "**-0.2000 nats** (-0.2000 to -0.2000)",
        "2.000 (1.750 to 2.250)",
        "1.250",
        "+2.0 points (-10.7 to +14.7)",
        "",
    ]


def test_the_control_is_each_result_s_own(rows):
    assert rows["more blocks"] == ["+0.1000 nats (1 seed)", "", "", "", "", "1.250 (1.250 to 1.250)"]


def test_a_point_is_the_gain_and_the_cost_of_a_variant_that_has_both(tmp_path):
    results = {
        "cpp_docs_deep": {"variants": {"add": deep(2.0, 3.0), "rw": deep(1.9, 2.9), "lr": deep(1.0, 1.0)}},
        "cpp_docs_deep_peers": {"variants": {"add": deep(2.0, 3.0), "rezero": deep(2.5)}},
        "cpp_docs_deep_settings": {"variants": {"add": deep(2.0, 3.0), "pa@joins=sublayer": deep(2.0, 2.0)}},
        "cpp_docs_deep_steps": {"variants": {"add": deep(2.0, 3.0), "add@steps=150": deep(1.0, 2.0, steps=150)}},
        "cpp_docs_deep_step_time_jax": {
            "variants": {"add": times(2, 2), "rw": times(3, 5), "rezero": times(2, 2), "pa": times(9, 9)}
        },
    }
    rezero, rw = overview.points(results.__getitem__)
    assert rezero == ("rezero", (1.0, 1.0, 1.0), 0.5, None)
    assert rw == ("rw", (1.75, 2.0, 2.25), pytest.approx(-0.1), pytest.approx(0, abs=1e-9))
    overview.plot(results.__getitem__, tmp_path / "overview.png")
    assert (tmp_path / "overview.png").stat().st_size > 0

"""The comparison at equal time: what the plain residual is given, and what it leaves of a gain."""

import pytest

from benchmarks import equal_time


def runs(*losses, steps=100):
    return [
        {
            "seed": seed,
            "config": {"steps": steps},
            "test": dict.fromkeys(("loss", "perplexity", "bits_per_byte"), loss),
            "held_out": [{"step": 60, "loss": 9.0}, {"step": steps, "loss": loss + 1}],
        }
        for seed, loss in enumerate(losses)
    ]


def times(*seconds):
    return {"seconds": {"train": {"wall": list(seconds)}}}


PLAIN = runs(2.0, 3.0)
RESULTS = {
    "cpp_docs_deep": {"variants": {"add": PLAIN, "rw": runs(1.9, 2.8), "lr": runs(1.0, 1.0)}},
    "cpp_docs_deep_settings": {"variants": {"add": PLAIN, "pa@joins=sublayer": runs(1.5)}},
    "cpp_docs_deep_peers": {"variants": {"add": PLAIN, "layerscale": runs(2.1, 3.1), "hyperconnections": runs(1, 1)}},
    "cpp_docs_deep_step_time_jax": {
        "variants": {
            "add": times(2, 2),
            "rw": times(2.2, 2.2),
            "pa@joins=sublayer": times(2.4, 2.4),
            "layerscale": times(2, 2),
            "hyperconnections": times(3, 3),
            "rezero": times(2, 2),
        }
    },
    "cpp_docs_deep_steps": {
        "variants": {"add": [*PLAIN, *runs(0, 0, 0)[2:]], "add@steps=120": runs(1.8, 2.6, steps=120)},
    },
}


@pytest.fixture
def rows():
    return {row["variant"]: row for row in equal_time.summary(RESULTS.__getitem__)}


def test_the_plain_residual_gets_the_steps_that_the_time_allows(rows):
    # A tenth more time is half of the way to 120 steps: 0.1 and 0.2 nats, where the join gained 0.1 and 0.2.
    row = rows["rw"]
    assert (row["ratio"], row["seeds"]) == (pytest.approx(1.1), 2)
    assert [row[key] for key in ("at_steps", "worth", "at_time", "interval")] == pytest.approx([-0.15, 1.1, 0, 0])


def test_all_that_is_taken_off_is_of_the_same_seed(rows):
    row = rows["pa@joins=sublayer"]
    assert [row[key] for key in ("at_steps", "at_time")] == pytest.approx([-0.5, -0.3])
    assert (row["interval"], row["worth"]) == (None, None)  # more than all of the longest run gains


def test_a_loss_is_worth_no_steps(rows):
    row = rows["layerscale"]
    assert [row[key] for key in ("at_steps", "at_time")] == pytest.approx([0.1, 0.1])
    assert row["worth"] is None


def test_variants_without_times_or_beyond_the_longest_run_are_left_out(rows):
    assert list(rows) == ["rw", "pa@joins=sublayer", "layerscale"]


def test_the_table_has_a_row_a_variant():
    header, cells = equal_time.table_cells(RESULTS.__getitem__)
    assert {len(header)} == {len(row) for row in cells}
    assert cells[0][:5] == ["rw", "2", "-0.1500 ± 0.0707", "+10%", "+10%"]
    assert cells[1] == ["pa@joins=sublayer", "1", "-0.5000", "", "+20%", "-0.3000", ""]


def test_curves_are_over_minutes_and_means_of_the_same_seeds(tmp_path):
    curves = equal_time.curves(RESULTS.__getitem__)
    assert list(curves) == ["add", "rw", "pa@joins=sublayer", equal_time.LONGER]
    minutes, losses = curves["rw"]
    assert (list(minutes), list(losses)) == (pytest.approx([2.2, 11 / 3]), pytest.approx([9, 3.35]))
    ends, losses = curves[equal_time.LONGER]
    assert (list(ends), list(losses)) == (pytest.approx([10 / 3, 4]), pytest.approx([3.5, 3.2]))
    equal_time.plot(RESULTS.__getitem__, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 0

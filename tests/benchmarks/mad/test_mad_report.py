"""What the report says of the records: which run counts, means, and differences from the plain residual."""

import pytest

from benchmarks.mad import report, scores


def record(
    join,
    seed,
    micro,
    validation,
    rate=1e-3,
    solved_at=None,
    macro=0.1,
    task="compression",
    weights=100,
    architecture="transformer",
):
    return {
        "settings": {
            "task": task,
            "setting": {"label": "baseline"},
            "architecture": architecture,
            "join": join,
            "learning_rate": rate,
            "weight_decay": 0.0,
            "seed": seed,
        },
        "weights": weights,
        "state": 7,
        "validation": {"micro": validation},
        "test": {"micro": micro, "macro_per_batch": macro},
        "solved_at": solved_at,
        "date": f"2026-01-0{seed + 1}",
        **dict.fromkeys(
            ("program", "command", "commit", "dirty", "device", "cores", "precision", "versions", "backend")
        ),
    }


def test_the_rate_is_chosen_by_validation_and_not_by_the_test():
    records = [
        record("add", 0, 0.9, 0.5, 1e-3, macro=0.8),
        record("add", 1, 0.9, 0.5, 1e-3, macro=0.6),
        record("add", 0, 0.7, 0.6, 5e-4, solved_at=10),
        record("add", 1, 0.8, 0.6, 5e-4),
        record("add", 2, 0.1, 0.9, 5e-4),  # a seed that the other rate does not have
    ]
    (row,) = scores.cells(report.combined(records))
    assert row["learning_rate"] == 5e-4
    assert row["scores"] == {0: 0.7, 1: 0.8}
    assert row["best_of_grid"] == pytest.approx(0.7)  # of 0.8 and 0.6
    assert report.steps_to_solve(row["solved_at"]) == "10 steps, 1 of 2 never"


def test_a_rate_at_which_a_run_diverged_is_not_chosen():
    diverged = {**record("add", 1, 0.9, 0.9, 1e-3), "test": None, "validation": None}
    records = [record("add", 0, 0.9, 0.9, 1e-3), diverged]
    assert scores.cells(report.combined(records)) == []
    records += [record("add", seed, 0.4, 0.3, 5e-4) for seed in (0, 1)]
    (row,) = scores.cells(report.combined(records))
    assert (row["learning_rate"], row["scores"]) == (5e-4, {0: 0.4, 1: 0.4})


def test_the_table_worked_by_hand():
    records = [record("add", seed, score, 0.5) for seed, score in enumerate((0.5, 0.6, 0.7))]
    records += [record("rw", seed, score, 0.5, weights=102) for seed, score in enumerate((0.6, 0.8, 0.9))]
    header, rows = report.table_cells(report.combined(records))
    assert header == ["architecture", "join", "weights", "seeds", "compression", "mean", "beside add"]
    # Differences 0.1, 0.2, 0.2: mean 1/6, deviation 0.0577, and 4.303 standard errors of three.
    assert rows == [
        ["transformer", "add", "100", "3", "60.0 ± 10.0", "60.0 ± 10.0", ""],
        ["transformer", "rw", "102", "3", "76.7 ± 15.3", "76.7 ± 15.3", "+16.7 ± 14.3"],
    ]


def test_the_table_of_differences_worked_by_hand():
    records = [record("add", seed, score, 0.5) for seed, score in enumerate((0.5, 0.6, 0.7))]
    records += [record("rw", seed, score, 0.5) for seed, score in enumerate((0.6, 0.8, 0.9))]
    records += [record("lr", seed, score, 0.5) for seed, score in enumerate((0.5, 0.7, 0.7))]
    header, rows = report.difference_cells(report.combined(records))
    assert header == ["architecture", "join", "compression", "all"]
    # As above; 0, 0.1, 0: mean 1/30, deviation 0.0577 too, so that zero is within.
    assert rows == [
        ["transformer", "rw", "**+16.7** ± 14.3", "**+16.7** ± 14.3"],
        ["transformer", "lr", "+3.3 ± 14.3", "+3.3 ± 14.3"],
    ]


def test_tasks_of_different_seeds_have_a_mean_without_a_spread():
    records = [record(join, seed, score, 0.5) for join, score in (("add", 0.5), ("rw", 0.6)) for seed in (0, 1)]
    records += [record(join, 0, score, 0.5, task="memorization") for join, score in (("add", 0.9), ("rw", 0.6))]
    found = report.combined(records)
    assert [row[3:] for row in report.table_cells(found)[1]] == [
        ["1 to 2", "50.0 ± 0.0", "90.0", "70.0", ""],
        ["1 to 2", "60.0 ± 0.0", "60.0", "60.0", "-10.0"],
    ]
    assert report.difference_cells(found)[1] == [["transformer", "rw", "**+10.0** ± 0.0", "-30.0", "-10.0"]]


def test_without_a_plain_residual_there_is_nothing_to_compare_with():
    found = report.combined([record("rw", 0, 0.5, 0.5)])
    assert report.table_cells(found)[1] == [["transformer", "rw", "100", "1", "50.0", "50.0", ""]]
    assert report.difference_cells(found)[1] == []


def test_joins_with_other_settings_and_of_other_papers_come_after_their_word(tmp_path):
    order = ["add", "rw", "rw@per_channel=true", "rw+lr", "hyperconnections"]
    found = report.combined([record(join, 0, 0.5, 0.5) for join in reversed(order)])
    assert [row["join"] for row in scores.cells(found)] == order
    report.plot(found, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_the_mean_is_over_what_the_plain_residual_has_too():
    records = [record("add", 0, 0.5, 0.5), record("rw", 0, 0.7, 0.5), record("rw", 0, 0.1, 0.5, task="memorization")]
    rows = scores.summary(report.combined(records))
    assert rows[1]["tasks"] == {"compression": {0: 0.7}}
    assert rows[1]["plain"] == {"compression": {0: 0.5}}


def test_a_join_with_fewer_tasks_is_compared_over_those_and_has_no_mean():
    records = [record("add", 0, 0.5, 0.5), record("add", 0, 0.1, 0.5, task="memorization"), record("rw", 0, 0.7, 0.5)]
    _, rows = report.table_cells(report.combined(records))
    assert [row[-2:] for row in rows] == [["30.0", ""], ["", "+20.0"]]


def test_a_wider_network_is_compared_with_the_one_that_it_is_the_control_of():
    records = [
        record("add", 0, 0.5, 0.5),
        record("rw", 0, 0.7, 0.5),
        record("add", 0, 0.6, 0.5, architecture="transformer-wide"),
        record("rw", 0, 0.9, 0.5, architecture="transformer-wide"),
    ]
    for cells in (report.table_cells, report.detail_cells):
        header, rows = cells(report.combined(records))
        assert [row[header.index("beside add")] for row in rows] == ["", "+20.0", "+10.0", "+30.0"]


@pytest.mark.parametrize(
    ("steps", "words"), [([5, 1, 9], "5 steps"), ([None, None], "never"), ([None, 4, None], "never, 2 of 3 never")]
)
def test_steps_to_solve_count_those_that_never_did_as_latest(steps, words):
    assert report.steps_to_solve(steps) == words

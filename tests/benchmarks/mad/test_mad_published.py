"""The table of runs of the published protocol, beside the published scores."""

from benchmarks.mad import published, scores
from benchmarks.mad.settings import MAD, MAD_CPU


def record(label, micro, macro, rate=1e-3, join="add", protocol=MAD.name, architecture="transformer"):
    return {
        "settings": {
            "protocol": protocol,
            "task": "memorization",
            "setting": {"label": label},
            "architecture": architecture,
            "join": join,
            "learning_rate": rate,
            "weight_decay": 0.0,
            "seed": 0,
        },
        "weights": 100,
        "state": 7,
        "validation": {"micro": micro},
        "test": {"micro": micro, "macro_per_batch": macro},
        "solved_at": None,
    }


def test_all_tasks_have_a_place_in_the_scores():
    assert set(published.TASKS) == set(MAD.settings)
    assert {len(scores) for scores in published.SCORES.values()} == {len(published.TASKS)}


def test_the_table_worked_by_hand():
    # The held-out choice is 1e-3 at both settings; the best of the grid is 5e-4 at the second.
    runs = [record("baseline", 0.9, 0.8), record("baseline", 0.5, 0.6, 5e-4)]
    runs += [record("vocab_size=512", 0.7, 0.4), record("vocab_size=512", 0.6, 0.5, 5e-4)]
    runs += [record("baseline", 0.1, 0.2, join="rw"), record("baseline", 0.1, 0.2, protocol=MAD_CPU.name)]
    runs += [record("baseline", 0.1, 0.2, architecture="mlp")]
    _, rows = published.cells({"runs": runs})
    assert rows == [
        ["memorization", "transformer", "add", "2 of 6", "2 of 6", "80.0", "65.0", ""],
        ["memorization", "transformer", "rw", "1 of 6", "1 of 6", "10.0", "20.0", ""],
        ["memorization", "mlp", "add", "1 of 6", "1 of 6", "10.0", "20.0", ""],
    ]


def test_settings_come_in_the_order_of_the_sweep():
    runs = [record(setting.label, 0.9, 0.8) for setting in reversed(MAD.settings["memorization"])]
    assert [row["label"] for row in scores.cells({"runs": runs})] == [s.label for s in MAD.settings["memorization"]]


def test_the_published_score_stands_beside_a_whole_task():
    runs = [record(setting.label, 0.9, 0.8) for setting in MAD.settings["memorization"]]
    assert published.cells({"runs": runs})[1] == [
        ["memorization", "transformer", "add", "6 of 6", "1 of 6", "90.0", "80.0", "85.2"]
    ]


def test_runs_of_another_protocol_have_no_rows():
    assert published.cells({"runs": [record("baseline", 0.1, 0.2, protocol=MAD_CPU.name)]})[1] == []

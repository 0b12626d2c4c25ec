import numpy as np
import pytest

from benchmarks.mad.tasks import (
    IGNORE,
    Compression,
    FuzzyInContextRecall,
    InContextRecall,
    Memorization,
    NoisyInContextRecall,
    SelectiveCopying,
)

SMALL = {"num_train": 6, "num_test": 4}
# The published baselines, with what they are to give.
TASKS = [
    (InContextRecall(**SMALL), 16, 127, True),
    (NoisyInContextRecall(**SMALL), 32, 127, True),
    (FuzzyInContextRecall(**SMALL), 16, 128, True),
    (SelectiveCopying(**SMALL), 16, 256, False),
    (Compression(**SMALL), 16, 32, False),
    (Memorization(**SMALL), 256, 32, False),
]
each_task = pytest.mark.parametrize("task", [row[0] for row in TASKS], ids=lambda task: task.name)


def arrays(data):
    return [*data.train, *data.test, *data.validation]


@pytest.mark.parametrize(("task", "vocab_size", "length", "differ"), TASKS, ids=[row[0].name for row in TASKS])
def test_schema(task, vocab_size, length, differ):
    data = task.dataset(num_validation=2)
    shapes = [array.shape for array in arrays(data)]
    assert shapes == [(6, length)] * 2 + [(4, length)] * 2 + [(2, length)] * 2
    assert task.input_length == length
    assert {array.dtype for array in arrays(data)} == {np.dtype("int32")}
    assert (data.vocab_size, data.targets_differ, data.ignore_index) == (vocab_size, differ, -100)
    assert task.targets_differ == differ
    assert task.backbone == ("auto-encoder" if task.name == "compression" else "language-model")
    for inputs, targets in (data.train, data.test, data.validation):
        assert inputs.min() >= 0
        assert inputs.max() < vocab_size
        kept = targets[targets != IGNORE]
        assert kept.min() >= 0
        assert kept.max() < vocab_size


@each_task
def test_training_scores_every_next_token_where_targets_differ(task):
    inputs, targets = task.dataset().train
    assert task.targets_differ == np.array_equal(targets[:, :-1], inputs[:, 1:])


@each_task
def test_a_seed_decides_the_examples(task):
    same = zip(arrays(task.dataset(3)), arrays(task.dataset(3)))
    assert all(np.array_equal(a, b) for a, b in same)
    assert not np.array_equal(task.dataset(3).train.inputs, task.dataset(4).train.inputs)


@each_task
def test_splits_have_no_sequence_in_common_and_validation_changes_no_other(task):
    data, without = task.dataset(num_validation=2), task.dataset()
    assert len(np.unique(np.concatenate([data.train.inputs, data.test.inputs, data.validation.inputs]), axis=0)) == 12
    assert all(np.array_equal(a, b) for a, b in zip(arrays(data)[:4], arrays(without)))


def test_numpys_global_generator_is_left_alone():
    np.random.seed(0)
    expected = np.random.random()
    np.random.seed(0)
    for task, *_ in TASKS:
        task.dataset()
    assert np.random.random() == expected


@pytest.mark.parametrize(
    ("kind", "settings", "received"),
    [
        (InContextRecall, {"seq_len": 9}, "seq_len=9"),
        (InContextRecall, {"seq_len": 2}, "seq_len=2"),
        (InContextRecall, {"vocab_size": 1}, "vocab_size=1, noise_vocab_size=0"),
        (InContextRecall, {"num_train": 0}, "num_train=0"),
        (InContextRecall, {"num_test": 0}, "num_test=0"),
        (InContextRecall, {"frac_noise": 0.2}, "noise_vocab_size=0, frac_noise=0.2"),
        (InContextRecall, {"noise_vocab_size": -1}, "noise_vocab_size=-1, frac_noise=0.0"),
        (NoisyInContextRecall, {"vocab_size": 17}, "vocab_size=17, noise_vocab_size=16"),
        (NoisyInContextRecall, {"frac_noise": 1.0}, "frac_noise=1.0"),
        (NoisyInContextRecall, {"frac_noise": -0.1}, "frac_noise=-0.1"),
        (FuzzyInContextRecall, {"k_motif_size": 0}, "k_motif_size=0, v_motif_size=3"),
        (FuzzyInContextRecall, {"vocab_size": 6}, "vocab_size=6, k_motif_size=3, v_motif_size=3"),
        (FuzzyInContextRecall, {"v_motif_size": 9}, "vocab_size=16, k_motif_size=3, v_motif_size=9"),
        (FuzzyInContextRecall, {"seq_len": 12}, "seq_len=12, k_motif_size=3, v_motif_size=3"),
        (SelectiveCopying, {"vocab_size": 2}, "vocab_size=2"),
        (SelectiveCopying, {"num_tokens_to_copy": 0}, "num_tokens_to_copy=0"),
        (SelectiveCopying, {"seq_len": 33}, "seq_len=33, num_tokens_to_copy=16"),
        (Compression, {"vocab_size": 1}, "vocab_size=1"),
        (Compression, {"seq_len": 1}, "seq_len=1"),
        (Memorization, {"vocab_size": 2}, "vocab_size=2"),
        (Memorization, {"seq_len": 31}, "seq_len=31"),
        (Memorization, {"seq_len": 0}, "seq_len=0"),
    ],
    ids=str,
)
def test_settings_out_of_range_are_refused(kind, settings, received):
    with pytest.raises(ValueError, match=rf"Received: {received}$"):
        kind(**settings)


@pytest.mark.parametrize(
    "task",
    [
        InContextRecall(vocab_size=2, seq_len=4, **SMALL),
        NoisyInContextRecall(vocab_size=3, noise_vocab_size=1, seq_len=4, frac_noise=0.9, **SMALL),
        FuzzyInContextRecall(vocab_size=7, seq_len=13, **SMALL),
        SelectiveCopying(vocab_size=3, seq_len=4, num_tokens_to_copy=1, **SMALL),
        Compression(vocab_size=2, seq_len=2, **SMALL),
        Memorization(vocab_size=3, seq_len=2, **SMALL),
    ],
    ids=lambda task: task.name,
)
def test_the_smallest_settings_work(task):
    targets = task.dataset().test.targets
    assert (targets != IGNORE).any(axis=1).all()


def test_a_negative_number_of_examples_to_validate_with_is_refused():
    with pytest.raises(ValueError, match=r"Received: num_validation=-1$"):
        Compression().dataset(num_validation=-1)

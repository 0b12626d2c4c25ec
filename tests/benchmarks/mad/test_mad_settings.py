import collections
import dataclasses

import pytest

from benchmarks.mad.settings import MAD, MAD_CPU


def changed(task, baseline):
    """Returns the settings of `task` that are not the baseline's."""
    return {key: value for key, value in dataclasses.asdict(task).items() if value != dataclasses.asdict(baseline)[key]}


def test_the_published_benchmark_has_66_settings_and_396_runs():
    counts = {name: len(settings) for name, settings in MAD.settings.items()}
    assert counts == {
        "in-context-recall": 11,
        "fuzzy-in-context-recall": 11,
        "noisy-in-context-recall": 14,
        "selective-copying": 13,
        "compression": 11,
        "memorization": 6,
    }
    assert sum(counts.values()) * len(MAD.learning_rates) * len(MAD.weight_decays) == 396


def test_the_baseline_is_first_and_each_other_setting_changes_one_thing_as_its_label_says():
    for settings in MAD.settings.values():
        assert settings[0].label == "baseline"
        for setting in settings[1:]:
            [(key, value)] = changed(setting.task, settings[0].task).items()
            assert setting.label == f"{key}={value}"


def test_published_steps():
    steps = {setting.task.num_train: setting.num_steps for settings in MAD.settings.values() for setting in settings}
    assert steps == {12800: 20_000, 6400: 10_000, 3200: 5000, 1600: 2600, 800: 1400, 256: 400}


def test_published_ids_of_the_noisy_task_are_useful_ones_and_sixteen_of_noise():
    useful = collections.Counter(setting.task.num_useful for setting in MAD.settings["noisy-in-context-recall"])
    assert useful == {16: 11, 32: 1, 64: 1, 128: 1}


@pytest.mark.parametrize("protocol", [MAD, MAD_CPU], ids=lambda protocol: protocol.name)
def test_labels_are_unique_and_settings_are_filed_under_their_task(protocol):
    for name, settings in protocol.settings.items():
        assert len({setting.label for setting in settings}) == len(settings)
        assert {setting.task.name for setting in settings} == {name}


# Batch, steps, training and test examples.
def test_reduced_sizes():
    sizes = {
        name: {(s.batch_size, s.num_steps, s.task.num_train, s.task.num_test) for s in settings}
        for name, settings in MAD_CPU.settings.items()
    }
    assert sizes == {
        "in-context-recall": {(32, 2000, 6400, 640)},
        "fuzzy-in-context-recall": {(32, 1500, 3200, 640)},
        "noisy-in-context-recall": {(32, 3000, 6400, 640)},
        "selective-copying": {(32, 1500, 3200, 640)},
        "compression": {(32, 1500, 3200, 640)},
        "memorization": {(128, 400, 256, 1280)},
    }
    assert (MAD_CPU.learning_rates, MAD_CPU.weight_decays) == ((1e-3, 5e-4), (0.0,))


def test_reduced_levels():
    changes = {
        name: [changed(s.task, MAD.settings[name][0].task) for s in settings]
        for name, settings in MAD_CPU.settings.items()
    }
    for levels in changes.values():
        for level in levels:
            level.pop("num_train", None), level.pop("num_test", None)
    assert changes == {
        "in-context-recall": [{"vocab_size": 8, "seq_len": 32}, {"vocab_size": 12, "seq_len": 48}],
        "fuzzy-in-context-recall": [{"vocab_size": 9, "seq_len": 64, "k_motif_size": 2, "v_motif_size": 2}],
        "noisy-in-context-recall": [
            {"vocab_size": 16, "noise_vocab_size": 8, "seq_len": 32},
            {"vocab_size": 16, "noise_vocab_size": 8, "seq_len": 32, "frac_noise": 0.4},
        ],
        "selective-copying": [{"seq_len": 64, "num_tokens_to_copy": 8}, {"seq_len": 64}],
        "compression": [{"seq_len": 16}, {}],
        "memorization": [{}, {"vocab_size": 2048}],
    }

import functools

import numpy as np
import pytest
from mad_statistics import assert_mean, assert_uniform, lines, scored

from benchmarks.mad.tasks import IGNORE, FuzzyInContextRecall


@functools.cache
def draw(num_examples, training, **settings):
    return FuzzyInContextRecall(**settings).sampler(0)(num_examples, training)


@functools.cache
def parsed(num_examples, training):
    """Returns the number of pads and the list of key and value motifs of each of the baseline's sequences."""
    examples = draw(num_examples, training)
    found = []
    for row in np.concatenate([examples.inputs, examples.targets[:, -1:]], axis=1).tolist():
        pads = next(i for i, token in enumerate(row) if token != 15)
        motifs, previous = [], None
        for token in row[pads:]:
            if (token < 7) != previous:
                motifs.append(())
            motifs[-1] += (token,)
            previous = token < 7
        found.append((pads, list(zip(motifs[::2], motifs[1::2]))))
    return found


# The published generator lists and shuffles all motifs, so that its examples are others.
def test_fixed_examples():
    sizes = {"vocab_size": 9, "seq_len": 24, "k_motif_size": 2, "v_motif_size": 2}
    data = FuzzyInContextRecall(**sizes, num_train=2, num_test=1).dataset()
    assert lines(data.train) + lines(data.test) == [
        "8 8 3 4 5 3 1 4 1 5 0 4 3 0 4 3 1 4 2 0 6 5 3 1 > 8 3 4 5 3 1 4 1 5 0 4 3 0 4 3 1 4 2 0 6 5 3 1 4",
        "8 8 8 8 8 1 7 2 0 5 4 0 4 0 1 7 1 3 6 3 6 7 0 1 > 8 8 8 8 1 7 2 0 5 4 0 4 0 1 7 1 3 6 3 6 7 0 1 7",
        "8 8 8 2 3 4 7 2 1 6 3 2 5 0 2 7 6 1 0 7 5 1 0 7 > . . . . . . . . . . . . . . . . . . . . . . 7 5",
    ]


@pytest.mark.parametrize("training", [True, False])
def test_sequences_are_pads_and_pairs_of_motifs_of_distinct_tokens(training):
    for pads, pairs in parsed(1000, training):
        assert 2 <= pads <= 7
        values = {}
        for key, value in pairs:
            assert len(set(key)) == len(key) <= 3
            assert len(set(value)) == len(value) <= 3
            assert len(key) == 3 or training
            assert 7 <= min(value) <= max(value) < 15
            assert values.setdefault(key, value) == value


def test_the_test_scores_values_of_keys_that_have_appeared_and_the_last():
    for targets, (pads, pairs) in zip(draw(1000, False).targets.tolist(), parsed(1000, False)):
        expected, seen = [IGNORE] * pads, set()
        for number, (key, value) in enumerate(pairs, 1):
            asked = key in seen or number == len(pairs)
            expected += [IGNORE] * len(key) + [token if asked else IGNORE for token in value]
            seen.add(key)
        assert targets == expected[1:]


# Measured with the published generator.
@pytest.mark.parametrize(("training", "expected", "num_measured"), [(True, 5.36, 3000), (False, 4.93, 8000)])
def test_number_of_pads(training, expected, num_measured):
    counts = [pads for pads, _ in parsed(1000, training)]
    assert_mean(counts, expected, error=np.std(counts) / np.sqrt(num_measured))


# Measured with the published generator; the last two on 640 and 128 sequences.
@pytest.mark.parametrize(
    ("settings", "expected", "num_measured"),
    [({}, 4.42, 8000), ({"vocab_size": 32}, 2.15, 256), ({"seq_len": 256}, 12.2, 640), ({"seq_len": 1024}, 147, 128)],
    ids=str,
)
def test_number_of_scored_positions(settings, expected, num_measured):
    counts = scored(draw(100 if "seq_len" in settings else 2000, False, **settings).targets)
    assert_mean(counts, expected, error=np.std(counts) / np.sqrt(num_measured))


def test_where_the_vocabulary_is_large_the_last_value_alone_is_scored():
    targets = draw(500, False, vocab_size=128).targets
    counts = scored(targets)
    assert abs(np.mean(counts) - 2) < 0.15
    assert (scored(targets[:, :-3]) == 0).mean() > 0.97


# 2.31% with the published generator: 185 of 8,000.
def test_the_last_key_never_appeared_before_in_some_sequences():
    missing = np.array([pairs[-1][0] not in dict(pairs[:-1]) for _, pairs in parsed(4000, False)])
    assert 0.015 < missing.mean() < 0.03
    assert_mean(missing, 0.0231, error=np.sqrt(0.0231 / 8000))


def test_keys_are_uniform_over_all_orders_of_three_tokens():
    index = {}
    keys = np.array([pairs[0][0] for _, pairs in parsed(4000, False)])
    assert_uniform(keys[:, 0], 7)
    codes = keys @ (49, 7, 1)
    places = [index.setdefault(code, len(index)) for code in codes.tolist()]
    assert_uniform(places, 7 * 6 * 5)


def test_values_are_uniform_over_sizes_and_all_orders():
    values = [pairs[0][1] for _, pairs in parsed(4000, False)]
    assert_uniform([len(value) for value in values], 3, first=1)
    for size, num_motifs in ((1, 8), (2, 8 * 7), (3, 8 * 7 * 6)):
        index = {}
        places = [index.setdefault(value, len(index)) for value in values if len(value) == size]
        assert_uniform(places, num_motifs)


def test_keys_of_training_are_uniform_over_sizes():
    assert_uniform([len(pairs[0][0]) for _, pairs in parsed(1000, True)], 3, first=1)


def test_the_keys_first_appearance_is_spread_over_the_sequence():
    # It stands behind a place that is uniform over 0, ..., 127 - 2p, where p is 5 on average; a chance repeat is rare.
    places = []
    for _, pairs in parsed(4000, False):
        length = 0
        for key, value in pairs[:-1]:
            if key == pairs[-1][0]:
                places.append(length)
                break
            length += len(key) + len(value)
    thirds = np.histogram(places, [0, 36, 72, 108])[0] / len(places)
    assert np.all(np.abs(thirds - 1 / 3) < 0.04)

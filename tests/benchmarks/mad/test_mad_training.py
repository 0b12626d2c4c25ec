"""One run: its batches, its loss, its scores, and that it is the same twice."""

import keras
import numpy as np
import pytest

from benchmarks.mad import training
from benchmarks.mad.settings import MAD_CPU, Setting
from benchmarks.mad.tasks import Compression
from benchmarks.mad.tasks.task import IGNORE, Examples
from benchmarks.mad.training import Batches, Run, cross_entropy

TINY = Setting("baseline", Compression(vocab_size=4, seq_len=3, num_train=6, num_test=4), batch_size=4, num_steps=4)
RUN = Run("mlp", "rw+lr", 1e-3, 0.1, seed=0, rank=2)


def test_each_pass_has_every_example_once_in_an_order_of_its_own():
    inputs = np.arange(5)[:, None]
    batches = Batches(Examples(inputs, -inputs), 2, 0, range(6))
    passes = [[batches[index] for index in indices] for indices in (range(3), range(3, 6))]
    orders = [np.concatenate([inputs[:, 0] for inputs, _ in batches]).tolist() for batches in passes]
    assert [sorted(order) for order in orders] == [list(range(5))] * 2
    assert orders[0] != orders[1]
    assert all(np.array_equal(inputs, -targets) for inputs, targets in passes[0])
    assert np.array_equal(Batches(Examples(inputs, -inputs), 2, 0, range(4, 6))[0][0], passes[1][1][0])


def test_the_loss_is_the_mean_over_scored_positions():
    logits = np.log(np.array([[[0.5, 0.5], [0.25, 0.75], [0.9, 0.1]]], "float32"))
    targets = np.array([[0, 1, IGNORE]])
    assert float(cross_entropy(targets, logits)) == pytest.approx(-(np.log(0.5) + np.log(0.75)) / 2, rel=1e-6)
    assert float(cross_entropy(np.full_like(targets, IGNORE), logits)) == 0


def test_scores_worked_by_hand():
    class Model:
        def predict_on_batch(self, inputs):
            return np.log([[[0.6, 0.4], [0.2, 0.8], [0.5, 0.5]]]).astype("float32")

    found = training.scores(Model(), Examples(np.zeros((1, 3), "int32"), np.array([[0, 0, IGNORE]])))
    assert found["micro"] == 0.5
    assert found["macro_per_batch"] == 0.25  # class 0 is half right, class 1 is predicted and never a target
    assert found["loss"] == pytest.approx(-(np.log(0.6) + np.log(0.2)) / 2, rel=1e-6)


@pytest.mark.slow_on("tensorflow")
def test_a_run_is_the_same_twice_and_checks_as_it_goes(monkeypatch):
    monkeypatch.setattr(training, "NUM_VALIDATION", 4)
    checks = []
    first = training.train(TINY, RUN, lambda *check: checks.append(list(check)))
    second = training.train(TINY, RUN)
    assert {**second, "seconds": first["seconds"]} == first
    assert first["curve"] == checks
    assert [step for step, _ in checks] == [1, 2, 3, 4]
    assert first["solved_at"] is None
    assert first["state"] == 0


def test_a_solved_task_is_noticed(monkeypatch):
    monkeypatch.setattr(training, "NUM_CHECKS", 2)
    monkeypatch.setattr(training, "scores", lambda model, examples: {"micro": 0.96})
    assert training.train(TINY, RUN)["solved_at"] == 2


def test_a_run_that_has_all_right_ends(monkeypatch):
    accuracies = iter([0.999, 1.0, 0.9])
    monkeypatch.setattr(training, "scores", lambda model, examples: {"micro": next(accuracies)})
    found = training.train(TINY, RUN)
    assert found["curve"] == [[1, 0.999], [2, 1.0]]
    assert found["test"] == {"micro": 0.9}


def test_a_loss_that_is_not_finite_ends_the_run_without_scores():
    found = training.train(TINY, Run("mlp", "add", float("nan"), 0.0, seed=0))
    assert found["diverged_at"] in (1, 2)  # the first step's loss is that of the first weights
    assert (found["test"], found["validation"], found["solved_at"]) == (None, None, None)


def test_the_rate_falls_to_a_millionth_and_joins_do_not_decay():
    from benchmarks.mad.models import build

    model = training.compiled(build(TINY.task, "mlp", "rw+lr", rank=2), RUN, 10)
    rate = model.optimizer._learning_rate
    assert [float(rate(step)) for step in (0, 10)] == pytest.approx([1e-3, 1e-6])
    model.optimizer.build(model.trainable_variables)
    decayed = {w.path for w in model.trainable_variables if model.optimizer._use_weight_decay(w)}
    assert "token_embedding/embeddings" in decayed
    assert not any("join" in path for path in decayed)
    constant = Run("mlp", "add", 1e-3, 0.0, seed=0, schedule="constant")
    optimizer = training.compiled(build(TINY.task, "mlp"), constant, 10).optimizer
    assert float(keras.ops.convert_to_numpy(optimizer.learning_rate)) == pytest.approx(1e-3)


@pytest.mark.slow
def test_the_transformer_memorizes_all_facts():
    setting = MAD_CPU.settings["memorization"][0]
    assert training.train(setting, Run("transformer", "add", 1e-3, 0.0, seed=0))["test"]["micro"] >= 0.999

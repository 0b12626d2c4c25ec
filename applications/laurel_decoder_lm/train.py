"""One run: build, `model.fit` from the last checkpoint on, evaluate, record."""

import contextlib
import math
import shutil

import keras
import numpy as np

from applications.distribution import ALONE, chief_first, gathered, refusals, undistributed
from applications.errors import UserError
from applications.files import write_json
from applications.laurel_decoder_lm import configs, data, sources, tokenization
from applications.laurel_decoder_lm import evaluation as evaluations
from applications.laurel_decoder_lm.callbacks import (
    Evaluations,
    Logs,
    Progress,
    Randomness,
    Recorder,
    Samples,
    Saver,
    due,
    writing,
)
from applications.laurel_decoder_lm.checkpoints import Checkpoints, read_state, restore
from applications.laurel_decoder_lm.generation import check_prompt, sampler
from applications.laurel_decoder_lm.history import History
from applications.laurel_decoder_lm.loading import load_model
from applications.laurel_decoder_lm.model import build, check, state_variables, trainer
from applications.laurel_decoder_lm.stream import Stream
from applications.precision import precision
from applications.runs import run_folder
from keras_laurel.monitoring import join_values, laurel_joins

POINTS = 200


def run(config, folder, origin, distribution=ALONE):
    """Trains a model, or goes on with a run that stopped, and writes `folder/result.json` and `folder/preset`.

    Args:
        config: A `Config`.
        folder: Folder of the run: its record, checkpoints, logs and, in the end, the model.
        origin: Dictionary that begins the record: the command and `provenance()`.
        distribution: A `Distribution`. All its processes call this function; the chief writes, and all read. A run may
            go on under another one than that which it began with.

    Returns:
        The record, a dictionary.

    Raises:
        UserError: If the text is not as it must be, the folder holds another run, there is no room on the disk, the
            loss is not finite, or the distribution refuses the batch or the model.
    """
    check(config)
    with refusals():
        distribution.check_batch(config.batch_size)
    part = distribution.data_shard
    with chief_first(distribution):
        texts = sources.load(config)
    folder = run_folder(folder, configs.as_json(config), distribution)
    checkpoints = Checkpoints(folder / "checkpoints", distribution)
    with precision(config) as policy, distribution.scope():
        with chief_first(distribution):
            tokenizer = tokenization.load(config, texts.train, folder)
        lm = build(config, tokenizer)
        if config.sample_every:
            check_prompt(lm, config.sample_prompt)
        model = trainer(lm, config)
        with refusals():
            distribution.prepare(model)
        held_out = evaluations.Evaluation(config, texts.held_out, tokenizer, part) if texts.held_out else None
        test = evaluations.whole(config, texts.test, tokenizer, part) if texts.test else None
        history, place = _resumed(model, checkpoints)
        with Progress(history, config) if distribution.is_chief else contextlib.nullcontext() as progress:
            _fit(model, lm, config, (texts.train, tokenizer), held_out, history, place, checkpoints, progress)
        record = {
            "program": "laurel_decoder_lm",
            **origin,
            "distribution": distribution.describe(),
            "config": configs.as_json(config),
            "precision": policy,
            "weights": lm.count_params(),
            "vocabulary": tokenizer.vocabulary_size(),
            "train": _thinned(history.losses),
            "held_out": history.curve(),
            "seconds": history.seconds_at(history.step),
            "step_seconds": history.step_seconds(),
            "test": test.of(model) if test else None,
            "sample": history.samples[-1]["text"] if history.samples else None,
            "joins": {name: join_values(join) for name, join in laurel_joins(lm).items()},
            "joins_in_training": history.joins,
        }
        if distribution.is_chief:
            with writing(folder, checkpoints):
                _write_preset(lm, folder, distribution)
                write_json(folder / "result.json", record)
            shutil.rmtree(checkpoints.folder)
        distribution.barrier()
    return record


def _write_preset(lm, folder, distribution):
    """Writes the model to `folder/preset`."""
    shutil.rmtree(folder / "preset", ignore_errors=True)
    if distribution.kind != "model" or distribution.num_processes == 1:
        lm.save_to_preset(str(folder / "preset"))
        return
    # No process has the whole weights, but the last checkpoint has.
    with undistributed(), keras.device("cpu"):
        load_model(folder).save_to_preset(str(folder / "preset"))


def _resumed(model, checkpoints):
    """Returns the history and the place in the text of the last checkpoint, whose variables `model` then has."""
    path = checkpoints.last()
    names = gathered(checkpoints.distribution, path and path.name)
    if len(set(names)) > 1:
        raise UserError(f"the processes see different checkpoints: {', '.join(map(str, names))}; all need one --out")
    if path is None:
        return History(), None
    state = read_state(path)
    restore(path, state_variables(model))
    return History(**state["history"]), state["place"]


def _fit(model, lm, config, text, held_out, history, place, checkpoints, progress):
    """Trains `model` until the last step, in parts between which it can be evaluated, sampled and saved."""
    lm.compile(sampler=sampler("top_k", seed=config.seed))
    pauses = [config.checkpoint_every, config.sample_every, config.evaluate_every if held_out else 0]
    distribution = checkpoints.distribution
    recorder = Recorder(history, config, checkpoints)
    with contextlib.ExitStack() as stack:
        shown = []
        if distribution.is_chief:
            logs = stack.enter_context(
                contextlib.closing(Logs(history, config, checkpoints.folder.parent, checkpoints))
            )
            shown = [logs, progress]
        while history.step < config.steps:
            # Twice, where the steps are no multiple of the parts: the parts of a `fit` are equal.
            left = config.steps - history.step
            part = min(math.gcd(*pauses), left)
            ends = range(history.step + part, config.steps + 1, part)
            evaluated = [
                index for index, end in enumerate(ends, 1) if held_out and due(end, config.evaluate_every, config)
            ]
            stream = Stream(lambda: data.training_batches(config, *text, part=distribution.data_shard), place, part)
            saver = Saver(history, config, checkpoints, stream)
            model.fit(
                stream,
                epochs=len(ends),
                steps_per_epoch=part,
                validation_data=held_out.batches if evaluated else None,
                validation_steps=held_out.steps if evaluated else None,
                validation_freq=evaluated or 1,
                callbacks=[
                    recorder,
                    Evaluations(history, held_out, lm),
                    Samples(history, config, lm),
                    *shown,
                    Randomness(history, config, distribution.process),
                    saver,
                ],
                shuffle=False,  # the batches are shuffled
                verbose=0,
            )
            place = saver.place


def _thinned(losses):
    """Returns about `POINTS` pairs of a step and the mean loss of the steps since the one before."""
    width = -(-len(losses) // POINTS)
    means = [float(np.mean(losses[start : start + width])) for start in range(0, len(losses), width)]
    return [[min((index + 1) * width, len(losses)), mean] for index, mean in enumerate(means)]

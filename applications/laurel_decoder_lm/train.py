"""One run: build, `model.fit` from the last checkpoint on, evaluate, record."""

import math
import shutil

import numpy as np

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
from applications.laurel_decoder_lm.model import build, check, state_variables, trainer
from applications.laurel_decoder_lm.randomness import set_random_state
from applications.laurel_decoder_lm.stream import Stream
from applications.precision import precision
from applications.runs import run_folder
from keras_laurel.monitoring import join_values, laurel_joins

POINTS = 200


def run(config, folder, origin):
    """Trains a model, or goes on with a run that stopped, and writes `folder/result.json` and `folder/preset`.

    Args:
        config: A `Config`.
        folder: Folder of the run: its record, checkpoints, logs and, in the end, the model.
        origin: Dictionary that begins the record: the command and `provenance()`.

    Returns:
        The record, a dictionary.

    Raises:
        UserError: If the text is not as it must be, the folder holds another run, there is no room on the disk, or the
            loss is not finite.
    """
    check(config)
    texts = sources.load(config)
    folder = run_folder(folder, configs.as_json(config))
    checkpoints = Checkpoints(folder / "checkpoints")
    with precision(config) as policy:
        tokenizer = tokenization.load(config, texts.train, folder)
        lm = build(config, tokenizer)
        if config.sample_every:
            check_prompt(lm, config.sample_prompt)
        model = trainer(lm, config)
        held_out = evaluations.Evaluation(config, texts.held_out, tokenizer) if texts.held_out else None
        test = evaluations.whole(config, texts.test, tokenizer) if texts.test else None
        history, place = _resumed(model, checkpoints)
        with Progress(history, config) as progress:
            _fit(model, lm, config, (texts.train, tokenizer), held_out, history, place, checkpoints, progress)
        with writing(folder, checkpoints):
            shutil.rmtree(folder / "preset", ignore_errors=True)
            lm.save_to_preset(str(folder / "preset"))
        record = {
            "program": "laurel_decoder_lm",
            **origin,
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
        }
    with writing(folder, checkpoints):
        write_json(folder / "result.json", record)
    shutil.rmtree(checkpoints.folder)
    return record


def _resumed(model, checkpoints):
    """Returns the history and the place in the text of the last checkpoint, whose variables `model` then has."""
    path = checkpoints.last()
    if path is None:
        return History(), None
    state = read_state(path)
    restore(path, state_variables(model))
    set_random_state(state["random"])
    return History(**state["history"]), state["place"]


def _fit(model, lm, config, text, held_out, history, place, checkpoints, progress):
    """Trains `model` until the last step, in parts between which it can be evaluated, sampled and saved."""
    lm.compile(sampler=sampler("top_k", seed=config.seed))
    pauses = [config.checkpoint_every, config.sample_every, config.evaluate_every if held_out else 0]
    logs = Logs(history, config, checkpoints.folder.parent, checkpoints)
    recorder = Recorder(history, config, checkpoints)
    try:
        while history.step < config.steps:
            # Twice, where the steps are no multiple of the parts: the parts of a `fit` are equal.
            left = config.steps - history.step
            part = min(math.gcd(*pauses), left)
            ends = range(history.step + part, config.steps + 1, part)
            evaluated = [
                index for index, end in enumerate(ends, 1) if held_out and due(end, config.evaluate_every, config)
            ]
            stream = Stream(lambda: data.training_batches(config, *text), place, part)
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
                    logs,
                    Randomness(),
                    saver,
                    progress,
                ],
                shuffle=False,  # the batches are shuffled
                verbose=0,
            )
            place = saver.place
    finally:
        logs.close()


def _thinned(losses):
    """Returns about `POINTS` pairs of a step and the mean loss of the steps since the one before."""
    width = -(-len(losses) // POINTS)
    means = [float(np.mean(losses[start : start + width])) for start in range(0, len(losses), width)]
    return [[min((index + 1) * width, len(losses)), mean] for index, mean in enumerate(means)]

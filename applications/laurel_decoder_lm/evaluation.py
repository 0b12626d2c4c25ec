"""Loss, perplexity and bits per byte."""

import dataclasses
import itertools
import math

import numpy as np

from applications.errors import UserError
from applications.laurel_decoder_lm import data, sources, tokenization
from applications.laurel_decoder_lm.loading import load_config, load_model
from applications.laurel_decoder_lm.model import scorer
from applications.laurel_decoder_lm.stream import Stream
from applications.precision import precision


class Evaluation:
    """The batches of an evaluation, and what a loss on them means.

    Args:
        config: A `Config`.
        documents: The `sources.Documents` to evaluate on.
        tokenizer: See `tokenization.load`.
        part: `(index, count)`: the rows of each batch that this process gives, of so many equal parts.

    Attributes:
        batches: What `evaluate` takes for that many steps, `(inputs, targets, weights)`.
        steps: Number of the batches.
        tokens: Number of the tokens that are predicted.
        bytes: Number of the bytes that they stand for.

    Raises:
        UserError: If the documents have no token.
    """

    def __init__(self, config, documents, tokenizer, part=(0, 1)):
        index, count = part
        batches = data.evaluation_batches(config, documents, tokenizer)
        # Over and over: the evaluations of a `fit` begin with a look at the batch after the last one.
        self.batches = Stream(
            lambda: (
                tuple(np.split(array, count)[index] for array in batch)
                for batch in itertools.chain.from_iterable(itertools.repeat(batches))
            )
        )
        lengths = tokenization.token_bytes(tokenizer)
        self.steps = self.tokens = self.bytes = 0
        for _, targets, weights in batches:
            self.steps += 1
            self.tokens += int(weights.sum())
            self.bytes += int((lengths[targets] * weights).sum(dtype="float64"))
        if not self.bytes:
            raise UserError(f"{documents.name} has nothing to evaluate on")

    def metrics(self, loss):
        """Returns the `loss` of a token in nats, its perplexity, and the bits per byte, as a dictionary."""
        return {
            "loss": loss,
            "perplexity": float(np.exp(loss)),
            "bits_per_byte": loss * self.tokens / (math.log(2) * self.bytes),
        }

    def of(self, model):
        """Returns the metrics of a compiled `Trainer`."""
        logs: dict = model.evaluate(self.batches, steps=self.steps, verbose=0, return_dict=True)
        return self.metrics(float(logs["token_loss"]))


def whole(config, documents, tokenizer, part=(0, 1)):
    """Returns the `Evaluation` on all of `documents`, whatever `config.evaluate_batches` says."""
    return Evaluation(dataclasses.replace(config, evaluate_batches=None), documents, tokenizer, part)


def evaluate_run(folder, split="held_out", text=None):
    """Returns the metrics of a run that has ended or stopped.

    Args:
        folder: Folder of the run.
        split: `"held_out"` or `"test"`, of the run's text.
        text: Another text, see `sources.FORMS`; then all of it counts.

    Raises:
        UserError: If there is no run or no such documents.
    """
    config = load_config(folder)
    if text is not None:
        documents = sources.load(dataclasses.replace(config, text=text, test_text=None, held_out=0.0)).train
    else:
        documents = getattr(sources.load(config), split)
    if documents is None:
        raise UserError(f"the run in {folder} has no {split} documents")
    with precision(config):
        lm = load_model(folder)
        return whole(config, documents, lm.preprocessor.tokenizer).of(scorer(lm, config))

"""From documents to batches of token windows, in an order that depends on the seed and the place in the run alone.

Documents are shuffled, tokenized and laid end to end, then cut into windows of `Config.context` tokens without padding.
Inputs are an end-of-text token and the document but for its last token; targets are the document, with an end-of-text
token where it ends. So each token of the text is a target once an epoch, whatever window it falls into.
"""

import dataclasses
import itertools

import grain
import numpy as np
from grain.experimental import ConcatThenSplitIterDataset, ThreadPrefetchIterDataset, WindowShuffleIterDataset

from applications.errors import UserError

SHUFFLED_BATCHES = 64
SHUFFLED_TOKENS = 2**20
_READING = grain.ReadOptions(num_threads=2, prefetch_buffer_size=32)
_NO_THREADS = grain.ReadOptions(num_threads=0)


def training_batches(config, documents, tokenizer, part=(0, 1)):
    """Returns the endless batches of a run, or a part of each, as a `Batches`.

    Each epoch has an order of its own, which depends on the seed. The windows of up to 64 batches or a million tokens
    are shuffled too, so that a batch is not full of one document. Each of `config.shards` parts of the documents fills
    as many rows of a batch, and only those are read that rows of this part of the batch are from.

    Args:
        config: A `Config`.
        documents: The `sources.Documents` to train on.
        tokenizer: See `tokenization.load`.
        part: `(index, count)`: the rows that are given out, of so many equal parts of a batch.

    Raises:
        UserError: If there are fewer documents than shards, or fewer tokens than `config.context`.
    """
    if len(documents) < config.shards:
        raise UserError(
            f"{documents.name} has {len(documents)} document(s) to train on, too few for shards={config.shards}"
        )
    index, count = part
    rows, shard_rows = config.batch_size // count, config.batch_size // config.shards
    shards = range(index * rows // shard_rows, -(-(index + 1) * rows // shard_rows))
    datasets = {shard: _shard(config, documents, tokenizer, shard) for shard in shards}
    start = index * rows - shards[0] * shard_rows
    return Batches(datasets, slice(start, start + rows), documents)


def _shard(config, documents, tokenizer, shard):
    """Returns what a shard of the documents fills of each batch, as a dataset."""
    ours = grain.MapDataset.source(documents)[shard :: config.shards]
    _check_length(config, documents.name, ours, tokenizer)
    rows = config.batch_size // config.shards
    # Not the seed itself: Grain adds the epoch to it, so that seed 1 would begin as seed 0 goes on.
    order_seed, window_seed = np.random.SeedSequence(config.seed).generate_state(2).tolist()
    windows = _windows(config, ours.shuffle(seed=order_seed).repeat(), tokenizer, _READING)
    count = max(rows, min(SHUFFLED_BATCHES * config.batch_size, SHUFFLED_TOKENS // config.context) // config.shards)
    return WindowShuffleIterDataset(windows, window_size=count, seed=window_seed).batch(rows)


class Batches:
    """Endless pairs `(inputs, targets)` of int32 arrays `(rows, context)`, made a few ahead in threads.

    Args:
        datasets: Dictionary of the numbers of shards, ascending, to their datasets.
        rows: The slice of the rows of these shards together that is given out.
        documents: The `sources.Documents` that all of it is from.
    """

    def __init__(self, datasets, rows, documents):
        self._iterators = {
            str(shard): iter(ThreadPrefetchIterDataset(dataset, prefetch_buffer_size=4))
            for shard, dataset in datasets.items()
        }
        self._rows = rows
        self._text = {"text": documents.name, "documents": len(documents), "bytes": documents.num_bytes}

    def __iter__(self):
        return self

    def __next__(self):
        tokens = np.concatenate([next(iterator)["tokens"] for iterator in self._iterators.values()])[self._rows]
        return tokens[..., 0], tokens[..., 1]

    def get_state(self):
        """Returns the place after the last batch that was given out, as JSON can keep it: of the shards that it reads.

        Processes that read others give other `places`, which belong together.
        """
        return {**self._text, "places": {key: iterator.get_state() for key, iterator in self._iterators.items()}}

    def set_state(self, state):
        """Goes to the place that `get_state` returned, in this process or others of the same config.

        Raises:
            UserError: If the text is not the one of then.
        """
        for key, value in self._text.items():
            if state[key] != value:
                raise UserError(f"the text is not that of the checkpoint: {key} was {state[key]} and is {value}")
        for key, iterator in self._iterators.items():
            iterator.set_state(_with_tuples(state["places"][key]))

    def close(self):
        """Ends the threads."""
        for iterator in self._iterators.values():
            iterator.close()


def together(places):
    """Returns what `Batches.get_state` of one process that reads everything would return.

    Args:
        places: List of what it returned in each process, at the same step.
    """
    return {**places[0], "places": {key: place for state in places for key, place in state["places"].items()}}


def evaluation_batches(config, documents, tokenizer):
    """Returns the batches of an evaluation, as an `EvaluationBatches`: the first `config.evaluate_batches`, or all.

    Args:
        config: A `Config`.
        documents: The `sources.Documents` to evaluate on.
        tokenizer: See `tokenization.load`.
    """
    # In an order of its own, so that the first batches are a sample of all documents.
    dataset = _windows(config, grain.MapDataset.source(documents).shuffle(seed=0), tokenizer, _NO_THREADS)
    return EvaluationBatches(
        dataset.batch(config.batch_size, drop_remainder=False), config.batch_size, config.evaluate_batches
    )


@dataclasses.dataclass(frozen=True)
class EvaluationBatches:
    """Triples `(inputs, targets, weights)` of arrays `(batch_size, context)`, the same in each iteration.

    The weights are float32: 1 for each token of the text, and 0 for the padding that fills the last batch.
    """

    dataset: grain.IterDataset
    batch_size: int
    count: int | None

    def __iter__(self):
        for batch in itertools.islice(self.dataset, self.count):
            tokens, weights = batch["tokens"], (batch["tokens_segment_ids"] > 0).astype("float32")
            missing = self.batch_size - len(tokens)
            tokens = np.pad(tokens, [(0, missing), (0, 0), (0, 0)])
            yield tokens[..., 0], tokens[..., 1], np.pad(weights, [(0, missing), (0, 0)])


def _check_length(config, name, documents, tokenizer):
    count = 0
    for document in documents:
        count += len(_pairs(document, tokenizer)["tokens"])
        if count >= config.context:
            return
    raise UserError(f"{name} has {count} tokens to train on, fewer than context={config.context}")


def _windows(config, documents, tokenizer, reading):
    """Returns the windows of all documents together, as `{"tokens": (context, 2)}` with Grain's additions."""
    pairs = documents.map(lambda document: _pairs(document, tokenizer)).to_iter_dataset(reading)
    return ConcatThenSplitIterDataset(pairs, length_struct={"tokens": config.context})


def _pairs(document, tokenizer):
    """Returns `{"tokens": (length, 2)}`: the inputs and targets of a document."""
    text, ends = document
    targets = [*tokenizer(text), tokenizer.end_token_id] if ends else tokenizer(text)
    tokens = np.empty((len(targets), 2), "int32")
    tokens[0, 0] = tokenizer.end_token_id
    tokens[:, 1] = targets
    tokens[1:, 0] = tokens[:-1, 1]
    return {"tokens": tokens}


def _with_tuples(state):
    """Returns `state` with the tuples that JSON made lists, which Grain does not know as its own."""
    if isinstance(state, dict):
        return {key: _with_tuples(value) for key, value in state.items()}
    return tuple(state) if isinstance(state, list) else state

"""Batches as `fit` and `evaluate` take them, and the place in the text that belongs to a step."""

import grain


class Stream(grain.IterDataset):
    """Gives `fit` or `evaluate` the batches of new iterators, and keeps the place after every `interval` batches.

    Keras looks at the first batches, starts anew, and reads ahead of the model. So each pass has an iterator of its
    own, and the place of a step is where its iterator was after that many batches, not where it is by now.

    Args:
        start: Function that returns a new iterator over the batches: a `data.Batches`, if there is a `place` or an
            `interval`.
        place: What `get_state` returned where the reading shall begin, or `None`.
        interval: Positive integer, or `None`.

    Attributes:
        places: Dictionary of numbers of batches to the place after them.
    """

    def __init__(self, start, place=None, interval=None):
        super().__init__()
        self.start = start
        self.place = place
        self.interval = interval
        self.places = {}

    def __iter__(self):
        return _Iterator(self)


class _Iterator(grain.DatasetIterator):
    def __init__(self, stream):
        super().__init__()
        self._stream = stream
        self._batches = stream.start()
        self._count = 0
        if stream.place is not None:
            self._batches.set_state(stream.place)

    def __next__(self):
        batch = next(self._batches)
        self._count += 1
        if self._stream.interval and self._count % self._stream.interval == 0:
            self._stream.places[self._count] = self._batches.get_state()
        return batch

    def get_state(self):
        raise NotImplementedError  # Grain's interface asks for both; `Stream.places` has what is needed

    def set_state(self, state):
        raise NotImplementedError

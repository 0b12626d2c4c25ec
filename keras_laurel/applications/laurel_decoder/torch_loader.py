"""PyTorch's loaders for keras_hub's tasks, which take arrays, tf.data and Grain alone."""

import copy
import functools
import sys
from typing import Any

import keras

_Task: Any = object  # the methods are a task's


class FitsTorchLoaders(_Task):
    """Lets `fit`, `evaluate` and `predict` of a `keras_hub` task take a `torch.utils.data.DataLoader`, on any backend.

    The loader's batches are `x`, `(x, y)` or `(x, y, sample_weight)`; with a preprocessor, `x` are strings. They are
    preprocessed where the loader puts batches together: in its worker processes, if it has any.
    """

    def fit(self, x=None, y=None, batch_size=None, *args, validation_data=None, **kwargs):
        if not (_is_loader(x) or _is_loader(validation_data)):
            return super().fit(x, y, batch_size, *args, validation_data=validation_data, **kwargs)
        both = _is_loader(x) and (validation_data is None or _is_loader(validation_data))
        if self.preprocessor is not None and not both:
            raise ValueError(
                "Expected `x` and `validation_data` to be PyTorch loaders, or neither, with a preprocessor. "
                f"Received: {type(x).__name__} and {type(validation_data).__name__}"
            )
        return keras.Model.fit(
            self,
            self._preprocessed(x),
            y,
            batch_size,
            *args,
            validation_data=self._preprocessed(validation_data),
            **kwargs,
        )

    def evaluate(self, x=None, y=None, batch_size=None, *args, **kwargs):
        if _is_loader(x):
            return keras.Model.evaluate(self, self._preprocessed(x), y, batch_size, *args, **kwargs)
        return super().evaluate(x, y, batch_size, *args, **kwargs)

    def predict(self, x=None, batch_size=None, *args, **kwargs):
        if _is_loader(x):
            return keras.Model.predict(self, self._preprocessed(x), batch_size, *args, **kwargs)
        return super().predict(x, batch_size, *args, **kwargs)

    def _preprocessed(self, data):
        """Returns `data`; a loader with the task's preprocessing."""
        if self.preprocessor is None or not _is_loader(data):
            return data
        loader: Any = copy.copy(data)
        loader._iterator = None  # that of workers which persist, and know no preprocessing
        loader.collate_fn = functools.partial(_collate, data.collate_fn, self.preprocessor)
        return loader


def _is_loader(data):
    torch = sys.modules.get("torch")  # which has been imported where there is a loader
    return torch is not None and isinstance(data, torch.utils.data.DataLoader)


def _collate(collate, preprocessor, examples):
    import torch

    batch = collate(examples)
    has_labels = isinstance(batch, (tuple, list)) and not isinstance(batch[0], str)
    with keras.device("cpu"):  # in a worker there is no other
        batch = preprocessor(*(batch if has_labels else [batch]))
        return keras.tree.map_structure(lambda t: torch.from_numpy(keras.ops.convert_to_numpy(t)), batch)

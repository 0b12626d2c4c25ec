"""PyTorch's loaders for keras_hub's tasks, which take arrays, tf.data and Grain alone."""

import copy
import sys
from typing import Any

import keras

_Task: Any = object  # the methods are a task's


class FitsTorchLoaders(_Task):
    """Lets `fit`, `evaluate` and `predict` of a `keras_hub` task take a `torch.utils.data.DataLoader`, on any backend.

    The loader's batches are `x`, `(x, y)` or `(x, y, sample_weight)`; with a preprocessor, `x` are strings. They are
    preprocessed where the loader puts batches together: in its worker processes, if it has any.
    """

    def fit(self, x=None, y=None, **kwargs):
        if isinstance(kwargs.get("validation_data"), _loader_class()) and isinstance(x, _loader_class()):
            kwargs["validation_data"] = self._preprocessed(kwargs["validation_data"])
        return self._run("fit", x, y, **kwargs)

    def evaluate(self, x=None, y=None, **kwargs):
        return self._run("evaluate", x, y, **kwargs)

    def predict(self, x=None, **kwargs):
        return self._run("predict", x, **kwargs)

    def _run(self, method, x, *args, **kwargs):
        if isinstance(x, _loader_class()):
            return getattr(keras.Model, method)(self, self._preprocessed(x), *args, **kwargs)
        return getattr(super(), method)(x, *args, **kwargs)

    def _preprocessed(self, loader):
        """Returns `loader` with the task's preprocessing."""
        if self.preprocessor is None:
            return loader
        import torch

        def collate(examples):
            batch = loader.collate_fn(examples)
            has_labels = isinstance(batch, (tuple, list)) and not isinstance(batch[0], str)
            batch = self.preprocess_samples(*(batch if has_labels else [batch]))
            return keras.tree.map_structure(lambda t: torch.from_numpy(keras.ops.convert_to_numpy(t)), batch)

        preprocessed = copy.copy(loader)
        preprocessed.collate_fn = collate
        return preprocessed


def _loader_class():
    """Returns PyTorch's `DataLoader`; nothing is one while PyTorch has not been imported."""
    torch = sys.modules.get("torch")
    return torch.utils.data.DataLoader if torch is not None else ()

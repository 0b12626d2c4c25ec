"""What the joins of a model have learned, and which weights are theirs."""

import keras
import numpy as np
from keras import ops

from keras_laurel.layers import Laurel, PreviousActivations


def laurel_joins(model):
    """Returns the built `Laurel` layers of `model`, nested ones included, in the order of the model's layers.

    Returns:
        Dictionary of names to layers. The name of a nested join begins with those of the models and layers it is in.
    """
    joins, seen = {}, set()

    def visit(layer, prefix):
        for sublayer in layer._flatten_layers(include_self=False, recursive=False):
            name = prefix + sublayer.name
            if not isinstance(sublayer, Laurel):
                visit(sublayer, f"{name}/")
            elif sublayer.built and id(sublayer) not in seen:
                seen.add(id(sublayer))
                while name in joins:  # layers of a subclassed model may share a name
                    name += "_"
                joins[name] = sublayer

    visit(model, "")
    return joins


def laurel_weights(model):
    """Returns the trainable LAuReL weights of `model`: logits, `gamma`, gains and low-rank factors."""
    return [weight for join in laurel_joins(model).values() for weight in join.trainable_weights]


def exclude_from_weight_decay(optimizer, model, var_list=(), var_names=()):
    """Excludes the LAuReL weights of `model` from the weight decay of `optimizer`.

    Decay would pull alpha and beta towards one and the other weights towards zero: towards the plain residual. Where
    `model` has no other weights to train, such as on a frozen base, the optimizer's decay is turned off.

    Args:
        optimizer: A Keras optimizer that has not been built yet.
        model: A built model; one without LAuReL joins is fine.
        var_list: Further variables to exclude. Keras keeps the exclusions of its last call only, so all go here.
        var_names: Strings; variables whose names contain one of them are excluded too, such as `["bias"]`.

    Raises:
        ValueError: If `model` has not been built, or `optimizer` has.

    Example:
    >>> inputs = keras.Input((8,))
    >>> model = keras.Model(inputs, keras_laurel.LaurelRW()([inputs, keras.layers.Dense(8)(inputs)]))
    >>> optimizer = keras.optimizers.AdamW(weight_decay=0.1)
    >>> keras_laurel.exclude_from_weight_decay(optimizer, model, var_names=["bias"])
    """
    if not model.built:
        raise ValueError(f"Expected a built model: an unbuilt one has no weights to exclude. Received: {model.name}")
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)  # that of a `LossScaleOptimizer` applies the decay
    if optimizer.built:
        raise ValueError(f"Expected an optimizer that has not been built yet. Received: {optimizer.name}, built")
    own = [weight for join in laurel_joins(model).values() for weight in join.weights]  # frozen ones may thaw
    optimizer.exclude_from_weight_decay([*own, *var_list], list(var_names))
    excluded = {id(variable) for variable in (*own, *var_list)}
    if all(id(w) in excluded or any(name in w.name for name in var_names) for w in model.trainable_weights):
        optimizer.weight_decay = None  # on torch, Keras fails where it has a decay and nothing to decay


def join_values(join):
    """Returns what a built join has learned, as a dictionary of floats.

    Args:
        join: A built `Laurel` layer.

    Returns:
        `alpha` and `beta` (means over the channels if they are vectors), `gamma_0`, `gamma_1`, ..., `low_rank_norm_j`
        (the Frobenius norm of `down_j @ up_j`; left out where the factors are quantized) and `gain` (its root mean
        square), as far as the join has them.
    """
    values = {}
    if join.residual_weights is not None:
        values["alpha"], values["beta"] = (
            float(np.mean(_numpy(weight))) for weight in join.residual_weights.alpha_beta()
        )
    low_rank = join.augmentation
    if isinstance(join.augmentation, PreviousActivations):
        low_rank = join.augmentation.low_rank
        values.update({f"gamma_{j}": float(g) for j, g in enumerate(_numpy(join.augmentation.gamma))})
    if low_rank is not None and low_rank.up.quantization_mode is None:
        for j, up in enumerate(np.split(_numpy(low_rank.up.kernel), len(low_rank.downs))):
            down = _numpy(low_rank.downs[j].kernel)
            # The norm of down @ up from two (rank, rank) matrices, without the (dim, dim) product.
            squared = np.sum((down.T @ down) * (up @ up.T))
            values[f"low_rank_norm_{j}"] = float(np.sqrt(max(squared, 0.0)))
    if join.gain is not None:
        values["gain"] = float(np.sqrt(np.mean(_numpy(join.gain) ** 2)))
    return values


def _numpy(tensor):
    return ops.convert_to_numpy(ops.cast(tensor, "float32")).astype("float64")


class LaurelMonitor(keras.callbacks.Callback):
    """Adds what every join has learned to the logs of each epoch, and plots it over depth.

    The log of an epoch gets `{join}/alpha`, `{join}/beta`, `{join}/gamma_0`, ... (see `join_values`), so that the
    `History` that `fit` returns and all callbacks that come *after* this one in the list have them: CSVLogger,
    TensorBoard and any tracker. To keep the progress bar short in a deep model, name it first:
    `callbacks=[keras.callbacks.ProgbarLogger(), LaurelMonitor(), ...]`.

    Attributes:
        values: One dictionary an epoch, of each join's name to its `join_values`.

    Example:
    >>> inputs = keras.Input((8,))
    >>> model = keras.Model(inputs, keras_laurel.LaurelRW(name="join")([inputs, keras.layers.Dense(8)(inputs)]))
    >>> model.compile("sgd", "mse")
    >>> x = np.ones((4, 8), "float32")
    >>> history = model.fit(x, x, verbose=0, callbacks=[keras_laurel.LaurelMonitor()])
    >>> sorted(history.history)
    ['join/alpha', 'join/beta', 'loss']
    """

    async_safe = True  # it has no work at the end of a batch

    def __init__(self):
        super().__init__()
        self.values = []

    def on_epoch_end(self, epoch, logs=None):
        self.values.append({name: join_values(join) for name, join in laurel_joins(self.model).items()})
        if logs is not None:
            logs.update({f"{join}/{key}": v for join, values in self.values[-1].items() for key, v in values.items()})

    def plot(self, path=None, epoch=-1):
        """Plots each learned value over depth, the joins in the order of the model's layers.

        Args:
            path: Where to save the figure, as a file name with its ending. Not saved by default.
            epoch: Index of the epoch to plot; the last by default.

        Returns:
            The `matplotlib.figure.Figure`.

        Raises:
            ImportError: If matplotlib is not installed.
            ValueError: If no epoch has ended or the model has no LAuReL joins.
        """
        if not self.values or not self.values[epoch]:
            raise ValueError("Nothing to plot: expected a model with LAuReL joins and an epoch that has ended.")
        return plot_over_depth(list(self.values[epoch].values()), path)


def plot_over_depth(values, path=None):
    """Plots the `join_values` of the joins of a stack over depth, one panel for each kind of value.

    Args:
        values: List of dictionaries, one for each join.
        path: Where to save the figure, or `None`.

    Returns:
        The `matplotlib.figure.Figure`.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("Plots need matplotlib: pip install 'keras-laurel[plots]'") from error
    keys = list(dict.fromkeys(key for join in values for key in join))
    panels = {}
    for key in keys:
        kind = {"alpha": "alpha, beta", "beta": "alpha, beta"}.get(key, key.rstrip("0123456789").rstrip("_"))
        panels.setdefault(kind, []).append(key)
    figure = Figure(figsize=(4 * len(panels), 3), layout="constrained")
    for axes, (kind, members) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items()):
        for key in members:
            depths = [depth for depth, join in enumerate(values) if key in join]
            axes.plot(depths, [values[depth][key] for depth in depths], marker="o", label=key)
        axes.set(xlabel="join", title=kind.replace("_", " "))
        axes.legend()
    if path is not None:
        figure.savefig(path, dpi=150)
    return figure

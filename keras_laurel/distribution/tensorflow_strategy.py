"""Data parallelism under TensorFlow, by `tf.distribute`."""

import functools
import os

import keras
import tensorflow as tf
from keras import ops

from keras_laurel.distribution.distribution import Distribution


class TensorFlowStrategy(Distribution):
    """Splits each batch over the devices of one machine, or over all chips of a TPU slice: one process.

    The strategy is `TPUStrategy` where there is a TPU: on a TPU VM, or named by the variable `TPU_NAME` (`local` on a
    TPU VM, else the name or address of a TPU or slice). Otherwise it is `MirroredStrategy` over all GPUs, or over all
    logical CPU devices where there is no GPU. `fit` takes whole batches, which TensorFlow splits. Drop a last, smaller
    batch: its replicas count alike whatever their parts are. Give masks as integers, not as bools.

    Several workers of a `TF_CONFIG` are refused. `fit` of Keras 3.15 under `MultiWorkerMirroredStrategy` was tried with
    two workers, on arrays and on a `tf.data.Dataset`: it fails where it builds the model from the first batch, which it
    averages over the workers as if they were replicas of one; and around that, with a model whose build is done, where
    it averages the logs, scalars, over their first axis.

    So that training equals that of one device, `prepare` makes the statistics of every `BatchNormalization` those of
    the whole batch (`synchronized=True`; a saved model keeps the setting that the layer had, and loads on every
    backend), lets an optimizer that clips gradients clip their sum, and a `LossScaleOptimizer` heed every replica.

    Raises:
        ValueError: If `TF_CONFIG` names more than one worker.
    """

    def __init__(self):
        self.strategy = _strategy()
        super().__init__("data", num_replicas=self.strategy.num_replicas_in_sync)

    def scope(self):
        return self.strategy.scope()

    def prepare(self, model):
        """See `Distribution.prepare`.

        Raises:
            ValueError: If `model` was not made in `scope()`, is not compiled, has a keras_hub preprocessor other than
                `LaurelCausalLMPreprocessor`, or is compiled with `jit_compile=True` or with an optimizer that
                accumulates gradients.
        """
        super().prepare(model)
        if model.distribute_strategy is not self.strategy:
            raise ValueError(
                "Expected a model that was made in `distribution.scope()`; one from outside trains on a single device. "
                f"Received: model={model.name}, of {type(model.distribute_strategy).__name__}"
            )
        if getattr(model, "optimizer", None) is None:
            raise ValueError(f"Expected a compiled model. Received: model={model.name}, not compiled")
        if model.jit_compile:
            raise ValueError(
                "Expected jit_compile=False or 'auto' in `compile`: Keras cannot compile a step over replicas by XLA. "
                "Received: jit_compile=True"
            )
        optimizer = getattr(model.optimizer, "inner_optimizer", model.optimizer)  # that of a `LossScaleOptimizer`
        if optimizer.gradient_accumulation_steps:
            raise ValueError(
                "Expected an optimizer that does not accumulate gradients, which TensorFlow cannot do over replicas; "
                f"PyTorch and JAX can. Received: gradient_accumulation_steps={optimizer.gradient_accumulation_steps}"
            )
        preprocessor = getattr(model, "preprocessor", None)
        if preprocessor is not None and not _gives_integers(preprocessor):
            raise ValueError(
                "Expected a `LaurelCausalLMPreprocessor`, or no preprocessor: the masks of keras_hub's own are bools, "
                "and Keras averages a first batch over the replicas. Map the data by the preprocessor, cast "
                "`padding_mask` and the sample weights to integers, and set `model.preprocessor = None`. "
                f"Received: {preprocessor}"
            )
        if optimizer.clipnorm or optimizer.global_clipnorm or optimizer.clipvalue:
            optimizer._clip_gradients = functools.partial(_clip_sum, optimizer)
        if isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer):
            model.optimizer.check_finite = functools.partial(_finite_everywhere, model.optimizer)
        for layer in model._flatten_layers():
            if isinstance(layer, keras.layers.BatchNormalization) and not layer.synchronized:
                # The other backends refuse a config with `synchronized=True`, so a saved model must not have it.
                layer.get_config = functools.partial(_config_as_made, layer)
                layer.synchronized = True


def _gives_integers(preprocessor):
    from keras_laurel.applications import LaurelCausalLMPreprocessor  # imports keras_hub

    return isinstance(preprocessor, LaurelCausalLMPreprocessor)


def _clip_sum(optimizer, grads):
    """Clips the sum of the replicas' gradients: Keras would clip those of each, which are shorter, and then add."""
    replica = tf.distribute.get_replica_context()
    sums = iter(replica.all_reduce(tf.distribute.ReduceOp.SUM, [grad for grad in grads if grad is not None]))
    clipped = type(optimizer)._clip_gradients(optimizer, [None if grad is None else next(sums) for grad in grads])
    # All replicas now have the same, which Keras adds.
    return [None if grad is None else ops.divide(grad, replica.num_replicas_in_sync) for grad in clipped]


def _finite_everywhere(optimizer, grads):
    """Tells whether the gradients of all replicas are finite: Keras would heed those of the first."""
    replica = tf.distribute.get_replica_context()
    finite = ops.cast(type(optimizer).check_finite(optimizer, grads), "int32")
    return ops.equal(replica.all_reduce(tf.distribute.ReduceOp.SUM, finite), replica.num_replicas_in_sync)


def _config_as_made(layer):
    return {**type(layer).get_config(layer), "synchronized": False}


def _strategy():
    workers = tf.distribute.cluster_resolver.TFConfigClusterResolver().cluster_spec()
    if sum(workers.num_tasks(job) for job in workers.jobs) > 1:
        raise ValueError(
            "Expected one worker: `fit` of Keras 3 fails under `MultiWorkerMirroredStrategy`. Over several machines "
            "take JAX, PyTorch or a TPU, or unset TF_CONFIG for the devices of this machine. "
            f"Received: TF_CONFIG with {workers.as_dict()}"
        )
    tpu = os.environ.get("TPU_NAME") or ("local" if tf.config.list_physical_devices("TPU") else None)
    if tpu:
        return tf.distribute.TPUStrategy(tf.distribute.cluster_resolver.TPUClusterResolver.connect(tpu))
    devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    return tf.distribute.MirroredStrategy([device.name for device in devices])

"""Data parallelism under PyTorch, by the processes that `torchrun` starts."""

import datetime
import functools
import itertools
import os

import keras
import torch
from torch import distributed

from keras_laurel.distribution.distribution import Distribution


class TorchProcessGroup(Distribution):
    """Averages gradients over processes, one a device: nccl where there is CUDA, else gloo.

    `python -m torch.distributed.run --nproc-per-node=8 train.py` starts the same script eight times. Each process reads
    its `data_shard` and calls `fit` and `evaluate` alike, with as many batches as the others; `prepare` arranges that

    - all begin with the weights of process 0;
    - the optimizer's `apply` first averages the gradients, all in one `all_reduce`. Clipping, loss scaling and
      accumulation come after it and see the mean; the loss is the mean of the processes' means;
    - metrics are summed over the processes, so that logs are equal everywhere and a callback that stops training stops
      all of it;
    - the moving statistics of `BatchNormalization` are averaged in the same `all_reduce`. The statistics of a training
      step are those of a process's own part of the batch, as in `DistributedDataParallel`: Keras has no
      `synchronized=True` on PyTorch.

    Keras from 3.16 on wraps the model in `DistributedDataParallel` and sums the metrics inside `fit`; `prepare` then
    leaves both to it. Where a process dies, `torchrun` ends the others, and `--max-restarts` starts all again; one that
    waits longer than `timeout` for the others raises.

    Processes whose seeds are equal drop the same channels of their parts. For drops of their own, seed each with
    `seed + distribution.process`.

    Args:
        timeout: Seconds. Defaults to 600.

    Raises:
        ValueError: If the process was not started by `torchrun`.
    """

    def __init__(self, timeout=600):
        if not distributed.is_initialized():
            _start(timeout)
        size, rank = distributed.get_world_size(), distributed.get_rank()
        super().__init__("data", num_replicas=size, num_processes=size, process=rank)

    def prepare(self, model):
        """See `Distribution.prepare`; to be called again after another `compile`.

        Raises:
            ValueError: If `model` is not built and compiled, or differs from that of another process.
        """
        super().prepare(model)
        if not model.built or getattr(model, "optimizer", None) is None:
            raise ValueError(
                f"Expected a built and compiled model. Received: model={model.name}, built={model.built}, "
                f"compiled={model.compiled}"
            )
        _share(model, self.num_processes)
        keras_does_it = hasattr(model, "ddp_model")
        optimizer = model.optimizer
        optimizer.apply = functools.partial(_apply, optimizer, _moving_statistics(model), not keras_does_it)
        if not keras_does_it:
            model.get_metrics_result = functools.partial(_metrics_result, model)

    def barrier(self):
        distributed.barrier()


def refuse_torchrun():
    """Raises in one of several processes of `torchrun`, which would train replicas that never meet."""
    size = int(os.environ.get("WORLD_SIZE", 1))
    if size > 1:
        raise ValueError(
            f"Expected `distribute('data')` in each of the {size} processes of torchrun: without it each would train a "
            "model of its own, and all would write the same files. Received: kind='none'"
        )


def _start(timeout):
    missing = [name for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        raise ValueError(
            "Expected to be started by torchrun, one process a device: python -m torch.distributed.run "
            f"--nproc-per-node=<devices> script.py. Received: no variable {', '.join(missing)}"
        )
    device = None
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
        torch.cuda.set_device(device)  # Keras then puts its tensors there
    distributed.init_process_group(
        "nccl" if device else "gloo", timeout=datetime.timedelta(seconds=timeout), device_id=device
    )


def _share(model, num_processes):
    """Gives the weights of process 0 to all, and what its optimizer has stored."""
    variables = [*model.weights, *model.optimizer.variables]
    kinds = [None] * num_processes
    distributed.all_gather_object(kinds, [(tuple(variable.shape), variable.dtype) for variable in variables])
    for process, (first, other) in enumerate(zip(kinds[:1] * num_processes, kinds)):
        if other != first:
            index, pair = next((i, p) for i, p in enumerate(itertools.zip_longest(first, other)) if p[0] != p[1])
            raise ValueError(
                f"Expected the same model and optimizer in every process. Received: variable {index} is {pair[0]} in "
                f"process 0 and {pair[1]} in process {process}"
            )
    for variable in variables:
        distributed.broadcast(variable.value.data, src=0)


def _moving_statistics(model):
    return [
        statistic
        for layer in model._flatten_layers()
        if isinstance(layer, keras.layers.BatchNormalization)
        for statistic in layer.non_trainable_variables
    ]


@torch.compiler.disable()  # which makes another version of Keras's conditions at each step, until it gives up
def _apply(optimizer, statistics, average_gradients, grads, trainable_variables=None):
    """`optimizer.apply`, after the gradients and `statistics` have become their means over the processes."""
    averaged = [statistic.value for statistic in statistics]
    if average_gradients:
        averaged += [grad for grad in grads if grad is not None]
    _average(averaged)
    return type(optimizer).apply(optimizer, grads, trainable_variables)


def _average(tensors):
    with torch.no_grad():
        for mean, tensor in zip(_sums(tensors), tensors):
            tensor.copy_(mean / distributed.get_world_size())


@torch.compiler.disable()  # which cannot trace a collective
def _sums(tensors):
    """Returns the sums of tensors over the processes, by one `all_reduce`."""
    if not tensors:
        return []
    flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
    distributed.all_reduce(flat)
    parts = flat.split([tensor.numel() for tensor in tensors])
    return [part.view(tensor.shape) for part, tensor in zip(parts, tensors)]


def _metrics_result(model):
    """`model.get_metrics_result`, of the metrics' variables summed over the processes."""
    if "apply" not in vars(model.optimizer):
        raise ValueError(
            "Expected `distribution.prepare(model)` after each `compile`: the gradients of the new optimizer are not "
            f"averaged. Received: optimizer={model.optimizer.name}, not prepared"
        )
    variables = model.metrics_variables
    with torch.no_grad():
        sums = _sums([variable.value for variable in variables])
    with keras.StatelessScope(state_mapping=list(zip(variables, sums))):
        return type(model).get_metrics_result(model)

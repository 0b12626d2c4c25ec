"""What all engines have in common, and the choice among them."""

import contextlib
import re

import keras

KINDS = ("none", "data", "model")


class Distribution:
    """How a run is spread over devices and processes. This one: a single process that leaves devices to the backend.

    `distribute` makes the right one. The engines derive from this class, hand their numbers to its constructor and
    override `scope`, `prepare` and `barrier` where they have something to do.

    Args:
        kind: `"none"`, `"data"` or `"model"`.
        num_replicas: Positive integer, into how many parts a batch is split over all processes.
        num_processes: Positive integer.
        process: Index of this process.
        data_shard: `(index, count)`, the part of the data that this process reads. Processes that hold parts of the
            same replica read the same part. Defaults to `(process, num_processes)`.
        num_devices: Positive integer, devices of all processes. Defaults to `num_replicas`.
        mesh: Dictionary of the sizes of the mesh's axes, if there is a mesh.

    Example:
    >>> distribution = keras_laurel.distribution.Distribution()
    >>> distribution.is_chief, distribution.data_shard
    (True, (0, 1))
    """

    def __init__(
        self, kind="none", *, num_replicas=1, num_processes=1, process=0, data_shard=None, num_devices=None, mesh=None
    ):
        self.kind = kind
        self.num_replicas = num_replicas
        self.num_processes = num_processes
        self.process = process
        self.data_shard = data_shard or (process, num_processes)
        self.num_devices = num_devices or num_replicas
        self.mesh = mesh

    @property
    def is_chief(self):
        """Whether this process is the one that prints, and writes what is written once."""
        return self.process == 0

    def scope(self):
        """Returns the context manager in which a model must be made, loaded, compiled and trained."""
        return contextlib.nullcontext()

    def prepare(self, model):
        """Makes a compiled model ready for `fit`, and refuses what would go wrong silently.

        Args:
            model: A `keras.Model`, made and compiled in `scope()`.

        Raises:
            ValueError: If `model` is no Keras model, or would not be trained as this distribution says.
        """
        if isinstance(getattr(model, "module", None), keras.Model):
            raise ValueError(
                "Expected the Keras model itself: `fit` of a model in a wrapper such as DistributedDataParallel goes "
                "around the wrapper, so that no gradients are averaged and the replicas drift apart silently. "
                f"Received: model={type(model).__name__}({type(model.module).__name__})"
            )
        if not isinstance(model, keras.Model):
            raise ValueError(f"Expected a Keras model. Received: model={model!r}")
        refuse_ignored_distribution()

    def check_batch(self, batch_size):
        """Refuses a batch that cannot be split evenly.

        Args:
            batch_size: Positive integer, the examples of a batch over all processes.

        Raises:
            ValueError: If `num_replicas` does not divide it.
        """
        if batch_size <= 0 or batch_size % self.num_replicas:
            raise ValueError(
                f"Expected a batch size (over all processes) that is a multiple of the {self.num_replicas} replicas. "
                f"Received: batch_size={batch_size}"
            )

    def local(self):
        """Returns the context manager in which one process may do what the others do not, such as saving a model."""
        return contextlib.nullcontext()

    def barrier(self):
        """Waits until all processes are here."""

    def describe(self):
        """Returns a dictionary for the record of a run."""
        return {
            "kind": self.kind,
            "mesh": self.mesh,
            "devices": self.num_devices,
            "replicas": self.num_replicas,
            "processes": self.num_processes,
        }


def distribute(kind="none", mesh=None, layout_map=None, timeout=600):
    """Chooses the engine that spreads training over devices: call it first, before anything is built.

    | backend | `"data"` | `"model"` |
    |---|---|---|
    | JAX | `keras.distribution.DataParallel` over all devices of all processes | `keras.distribution.ModelParallel` |
    | TensorFlow | `TPUStrategy` or, on one machine, `MirroredStrategy` | no |
    | PyTorch | the processes that `torchrun` started | no |

    Args:
        kind: `"none"`: one process, devices left to the backend. `"data"`: each device has all weights and a part
            of the batch. `"model"`: weights are divided too, over a mesh of devices; `"model:2x4"` is the same as
            `"model"` with `mesh=(2, 4)`.
        mesh: For `"model"`, a pair `(data, model)`: into how many parts batches and weights are divided. The product
            is the number of devices.
        layout_map: For `"model"`, which has no default for it, a function that takes the
            `keras.distribution.DeviceMesh`, with axes `"batch"` and `"model"`, and returns the model's
            `keras.distribution.LayoutMap`: `keras_laurel.applications.LaurelDecoderBackbone.get_layout_map`,
            `keras_laurel.applications.laurel_resnet50_layout_map`, or your own. Other kinds do not look at it.
        timeout: Under PyTorch, seconds that a process waits for the others before it raises. Defaults to 600.

    Returns:
        A `Distribution`.

    Raises:
        ValueError: If the backend has no such kind, or an argument does not fit the kind or the devices; with `"none"`
            in one of several processes of `torchrun`.

    Example:
    >>> distribution = keras_laurel.distribution.distribute("none")  # or "data", "model:2x4"
    >>> distribution.check_batch(32)
    >>> with distribution.scope():
    ...     model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    ...     model.compile("sgd", "mse")
    >>> distribution.prepare(model)
    >>> distribution.describe()
    {'kind': 'none', 'mesh': None, 'devices': 1, 'replicas': 1, 'processes': 1}
    >>> keras_laurel.distribution.distribute("modle")
    Traceback (most recent call last):
    ValueError: Expected `kind` to be 'none', 'data', 'model' or such as 'model:2x4'. Received: kind='modle'
    """
    kind, mesh = _parsed(kind, mesh)
    refuse_ignored_distribution()
    backend = keras.backend.backend()
    if kind == "none":
        if backend == "torch":
            from keras_laurel.distribution.torch_process_group import refuse_torchrun

            refuse_torchrun()
        return Distribution()
    if backend == "jax":
        from keras_laurel.distribution.jax_mesh import JaxMesh

        return JaxMesh(kind, mesh, layout_map)
    if kind == "model":
        raise ValueError(
            f"Expected kind='data' or 'none' on {backend}: Keras divides weights over devices under JAX only "
            "(KERAS_BACKEND=jax). Received: kind='model'"
        )
    if backend == "tensorflow":
        from keras_laurel.distribution.tensorflow_strategy import TensorFlowStrategy

        return TensorFlowStrategy()
    if backend == "torch":
        from keras_laurel.distribution.torch_process_group import TorchProcessGroup

        return TorchProcessGroup(timeout)
    raise ValueError(f"Expected kind='none' on {backend}. Received: kind={kind!r}")


def refuse_ignored_distribution():
    """Raises where a distribution of `keras.distribution` is set that the backend ignores."""
    backend, found = keras.backend.backend(), keras.distribution.distribution()
    if backend != "jax" and found is not None:
        raise ValueError(
            f"Expected no distribution of `keras.distribution` on {backend}, which would ignore it silently. Take "
            "`keras_laurel.distribution.distribute('data')`, and `keras.distribution.set_distribution(None)` first. "
            f"Received: {found}"
        )


def _parsed(kind, mesh):
    """Returns the word of `kind` and the mesh that is in `kind` or in `mesh`."""
    match = re.fullmatch(rf"({'|'.join(KINDS)})(?::(\d+)x(\d+))?", kind) if isinstance(kind, str) else None
    if not match or (match[2] and match[1] != "model"):
        raise ValueError(
            f"Expected `kind` to be 'none', 'data', 'model' or such as 'model:2x4'. Received: kind={kind!r}"
        )
    if match[2] and mesh is not None:
        raise ValueError(f"Expected the mesh once, in `kind` or in `mesh`. Received: kind={kind!r}, mesh={mesh!r}")
    if mesh is not None and match[1] != "model":
        raise ValueError(f"Expected a mesh with kind='model' alone. Received: kind={kind!r}, mesh={mesh!r}")
    return match[1], (int(match[2]), int(match[3])) if match[2] else mesh

"""Runs of a recipe under a distribution, in processes of their own: one, or several that are one run.

    python distributed_runs.py laurel_decoder_lm '[{"config": {...}, "folder": "runs/a", "kind": "model:2x4"}, ...]'

A job may have `"copy_of"`, another job's folder, of which its folder becomes a copy first; or `"stop": 6`, the step (of
the ResNet: the part) in which the run stops as if interrupted, or with `"kill": 1` the process of that number dies.
"""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys


class StoppedError(Exception):
    """Stands for an interruption."""


def run_jobs(recipe, jobs, **kwargs):
    """Runs `jobs`; see `run_program`."""
    return run_program([__file__, recipe, json.dumps(jobs, default=str)], **kwargs)


def run_program(command, *, backend, devices=1, processes=1):
    """Runs Python under a backend with virtual devices in each of some processes; returns the finished processes.

    Several processes of PyTorch are started by torchrun: that one is returned.
    """
    environment = {
        **os.environ,
        "KERAS_BACKEND": backend,
        "CPUS": str(devices),
        "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}",
        "OMP_NUM_THREADS": "1",
    }
    if backend == "torch":
        command = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", *command]
        processes = 1
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    running = []
    for process in range(processes):
        if processes > 1:
            names = ("JOB_ADDRESSES", "NUM_PROCESSES", "PROCESS_ID")
            for name, value in zip(names, (address, processes, process)):
                environment[f"KERAS_DISTRIBUTION_{name}"] = str(value)
        running.append(
            subprocess.Popen(
                [sys.executable, *command], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
            )
        )
    done = []
    for process in running:
        output, _ = process.communicate(timeout=300)
        done.append(subprocess.CompletedProcess(process.args, process.returncode, output))
    return done


def run_command(recipe, *arguments, backend):
    """Runs a command of a recipe with two virtual devices, or under PyTorch two processes; returns its process."""
    command = [__file__, recipe, "command", *map(str, arguments)]
    (done,) = run_program(command, backend=backend, devices=2, processes=2 if backend == "torch" else 1)
    return done


def assert_run(recipe, jobs, **kwargs):
    """Like `run_jobs`, and asserts that all went well."""
    for done in run_jobs(recipe, jobs, **kwargs):
        assert done.returncode == 0, done.stdout


def _stop(recipe, at, kill, process):
    """Makes the run stop in the step or part `at`."""
    if recipe == "laurel_decoder_lm":
        from applications.laurel_decoder_lm.callbacks import Recorder as Hooked

        name = "on_train_batch_end"
    else:
        from applications.laurel_resnet50.train import EpochLog as Hooked

        name = "on_epoch_begin"
    before = getattr(Hooked, name)

    def hook(self, index, logs=None):
        before(self, index, logs)
        place = index + self.history.step + 1 if recipe == "laurel_decoder_lm" else index
        if place == at and kill == process:
            os.kill(os.getpid(), signal.SIGKILL)
        if place == at and kill is None:
            raise StoppedError

    setattr(Hooked, name, hook)
    return lambda: setattr(Hooked, name, before)


def main(recipe, jobs, *arguments):
    if os.environ["KERAS_BACKEND"] == "tensorflow":
        import tensorflow as tf

        tf.config.threading.set_inter_op_parallelism_threads(16)  # devices that wait for data hold a thread each
        cpus = [tf.config.LogicalDeviceConfiguration()] * int(os.environ["CPUS"])
        tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], cpus)
    import importlib

    if jobs == "command":
        importlib.import_module(f"applications.{recipe}.__main__").app(arguments)
    import keras

    from applications.distribution import distributed

    train, configs = (importlib.import_module(f"applications.{recipe}.{name}") for name in ("train", "configs"))
    if recipe == "laurel_decoder_lm":
        from keras_laurel.applications.laurel_decoder.layout import layout_map
    else:
        from keras_laurel.applications import laurel_resnet50_layout_map as layout_map
    for job in json.loads(jobs):
        if "copy_of" in job:
            shutil.copytree(job["copy_of"], job["folder"])
        keras.distribution.set_distribution(None)
        spread = distributed(job["kind"], layout_map)
        undo = _stop(recipe, job["stop"], job.get("kill"), spread.process) if "stop" in job else lambda: None
        config = {key: tuple(value) if isinstance(value, list) else value for key, value in job["config"].items()}
        with contextlib.suppress(StoppedError):
            train.run(configs.Config(**config), job["folder"], {}, distribution=spread)
        undo()


if __name__ == "__main__":
    main(*sys.argv[1:])

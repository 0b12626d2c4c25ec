"""Many runs, several at a time, each a file when it ends; what is there is not made again."""

import concurrent.futures
import contextlib
import dataclasses
import importlib
import json
import multiprocessing
import os
import signal

from applications.errors import UserError
from applications.files import writable_folder, write_json
from benchmarks.mad.settings import Setting

RUNS_OF_A_PROCESS = 24  # each leaves compiled programs behind


@dataclasses.dataclass(frozen=True)
class Job:
    """A run to make.

    Attributes:
        protocol: Name of the protocol.
        task: Name of the task.
        setting: The `Setting`.
        run: Dictionary of the arguments of `training.Run`.
    """

    protocol: str
    task: str
    setting: Setting
    run: dict

    @property
    def name(self):
        """The name of its file, without the ending."""
        run = self.run
        grid = f"lr{run['learning_rate']:g}-wd{run['weight_decay']:g}"
        return f"{self.task}.{self.setting.label}.{run['architecture']}.{run['join']}.{grid}.seed{run['seed']}"

    @property
    def settings(self):
        """All that decides the run, as JSON would give it back."""
        setting = {
            "label": self.setting.label,
            "task": dataclasses.asdict(self.setting.task),
            "batch_size": self.setting.batch_size,
            "num_steps": self.setting.num_steps,
        }
        return json.loads(json.dumps({"protocol": self.protocol, "task": self.task, "setting": setting, **self.run}))

    @property
    def tokens(self):
        """How many tokens it trains on: about proportional to its time."""
        return self.setting.num_steps * self.setting.batch_size * self.setting.task.input_length


def jobs_of(protocol, tasks, labels, architectures, joins, learning_rates, weight_decays, seeds, **shared):
    """Returns the list of `Job`s; whole seeds come one after the other, so that what is stopped has some that compare.

    Args:
        protocol: A `settings.Protocol`.
        tasks: Names of tasks.
        labels: Labels of settings, or `None` for all.
        architectures: Names; see `architectures.mixers_of`.
        joins: Words for `keras_laurel.residual`.
        learning_rates: List of floats.
        weight_decays: List of floats.
        seeds: List of integers.
        **shared: Other arguments of `training.Run`.

    Raises:
        UserError: If a task or label is unknown.
    """
    chosen = []
    for task in tasks:
        if task not in protocol.settings:
            raise UserError(f"unknown task {task!r}; known: {', '.join(protocol.settings)}")
        chosen += [(task, s) for s in protocol.settings[task] if labels is None or s.label in labels]
    known = dict.fromkeys(setting.label for task in tasks for setting in protocol.settings[task])
    for label in labels or ():
        if label not in known:
            raise UserError(f"unknown setting {label!r}; known: {', '.join(known)}")
    return [
        Job(
            protocol.name,
            task,
            setting,
            {
                "architecture": architecture,
                "join": join,
                "learning_rate": learning_rate,
                "weight_decay": weight_decay,
                "seed": seed,
                **shared,
            },
        )
        for seed in seeds
        for task, setting in chosen
        for architecture in architectures
        for learning_rate in learning_rates
        for weight_decay in weight_decays
        for join in joins
    ]


def missing(jobs, folder):
    """Returns the jobs whose file is not in `folder` yet.

    Raises:
        UserError: If the folder cannot be written to, or a file is broken or of a run with other settings.
    """
    folder = writable_folder(folder)
    left = []
    for job in jobs:
        path = folder / f"{job.name}.json"
        if not path.exists():
            left.append(job)
            continue
        try:
            settings = json.loads(path.read_text())["settings"]
        except (ValueError, KeyError, TypeError):
            raise UserError(f"{path} is no whole record: remove it") from None
        if settings != job.settings:
            raise UserError(f"{path} is a run with other settings: choose another --out, or remove it")
    return left


def run_jobs(jobs, folder, command, processes, on_end=lambda job, record: None):
    """Makes the jobs' files; see `missing`.

    Args:
        jobs: List of `Job`s.
        folder: Where their files go.
        command: What the records say of how they came to be.
        processes: How many run at a time, each on a core of its own. With 0 they run in this process.
        on_end: Called with each job that ends and its record.

    Raises:
        UserError: If a process dies; the runs that have ended are kept.
    """
    folder = writable_folder(folder)

    def end(job, record):
        write_json(folder / f"{job.name}.json", record)
        on_end(job, record)

    if not processes:
        for job in jobs:
            end(job, record_of(job, command))
        return
    context = multiprocessing.get_context("spawn")
    cores = context.Queue()
    available = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [None] * processes
    # A process that has done its share is replaced, so each core is handed out again and again.
    for index in range(len(jobs) + processes):
        cores.put(available[index % processes % len(available)])
    with contextlib.ExitStack() as stack:
        pool = stack.enter_context(
            concurrent.futures.ProcessPoolExecutor(
                processes, context, _begin, (cores,), max_tasks_per_child=RUNS_OF_A_PROCESS
            )
        )
        futures = {pool.submit(record_of, job, command): job for job in jobs}
        try:
            for future in concurrent.futures.as_completed(futures):
                job = futures[future]
                try:
                    record = future.result()
                except concurrent.futures.process.BrokenProcessPool:
                    raise UserError(f"a process died in {job.name} or beside it: perhaps memory ran out") from None
                end(job, record)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in multiprocessing.active_children():
                process.kill()
            raise


def _begin(cores):
    """Prepares a process of the pool: one core, and no answer to Ctrl-C, which is for the first process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    core = cores.get()
    if core is not None:
        os.sched_setaffinity(0, {core})
    os.environ["OMP_NUM_THREADS"] = "1"


def record_of(job, command):
    """Makes a run and returns its record."""
    import keras

    from applications.provenance import provenance

    training = importlib.import_module("benchmarks.mad.training")
    keras.backend.clear_session()
    found = training.train(job.setting, training.Run(**job.run))
    return {"program": "mad", "command": command, **provenance(), "settings": job.settings, **found}

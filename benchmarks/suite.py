"""Suites of runs: several at a time, each a file when it ends; what is there is not made again."""

import concurrent.futures
import contextlib
import json
import multiprocessing
import os
import signal
import threading
from pathlib import Path

from applications.errors import UserError
from applications.files import writable_folder, write_json
from applications.results import SHARED

RUNS_OF_A_PROCESS = 24  # each leaves compiled programs behind
# How glibc allocates: what is freed is kept, in pages of 2 MiB. A step of JAX or TensorFlow takes buffers of 100 MB and
# gives them back; anew from the kernel, which clears them by pages of 4 KiB, they can take half of the step's time.
ALLOCATION = f"glibc.malloc.hugetlb=1:glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold={1 << 40}"


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


def run_jobs(jobs, folder, record, processes, on_end=lambda job, record: None):
    """Makes the jobs' files; see `missing`.

    Args:
        jobs: List of jobs. Each can be pickled and has a `name`, that of its file; `settings`, a dictionary of all
            that decides the run, as JSON gives it back; and `cost`, about proportional to its time.
        folder: Where their files go.
        record: Function of a job that makes its run and returns its record, with `settings`. It can be pickled.
        processes: How many run at a time, each on a core of its own. With 0 they run in this process.
        on_end: Called with each job that ends and its record.

    Raises:
        UserError: If a process dies; the runs that have ended are kept.
    """
    folder = writable_folder(folder)

    def end(job, made):
        write_json(folder / f"{job.name}.json", made)
        on_end(job, made)

    if not processes:
        for job in jobs:
            end(job, record(job))
        return
    # New processes for each part: `max_tasks_per_child` can leave Python 3.11 without one, waiting.
    share = processes * RUNS_OF_A_PROCESS
    for first in range(0, len(jobs), share):
        _run_side_by_side(jobs[first : first + share], record, processes, end)


def _run_side_by_side(jobs, record, processes, end):
    """Calls `end` with each job and what `record` makes of it, in processes of their own."""
    os.environ.setdefault("GLIBC_TUNABLES", ALLOCATION)  # read by processes when they begin
    context = multiprocessing.get_context("spawn")
    cores = context.Queue()
    available = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [None] * processes
    for index in range(processes):
        cores.put(available[index % len(available)])
    with contextlib.ExitStack() as stack:
        pool = stack.enter_context(concurrent.futures.ProcessPoolExecutor(processes, context, _begin, (cores,)))
        futures = {pool.submit(record, job): job for job in jobs}
        try:
            for future in concurrent.futures.as_completed(futures):
                job = futures[future]
                try:
                    made = future.result()
                except concurrent.futures.process.BrokenProcessPool:
                    raise UserError(f"a process died in {job.name} or beside it: perhaps memory ran out") from None
                end(job, made)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in multiprocessing.active_children():
                process.kill()
            raise


def _begin(cores):
    """Prepares a process of the pool: one core, no answer to Ctrl-C, which is for the first process, and its end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(multiprocessing.parent_process(),), daemon=True).start()
    core = cores.get()
    if core is not None:
        os.sched_setaffinity(0, {core})
    os.environ["OMP_NUM_THREADS"] = "1"


def _end_with(parent):
    """Ends this process when its parent has ended, killed perhaps; it would go on with its run, and then wait."""
    parent.join()
    os._exit(1)


def records_of(folder):
    """Returns the records in a folder.

    Raises:
        UserError: If there are none.
    """
    paths = sorted(Path(folder).glob("*.json"))
    if not paths:
        raise UserError(f"there are no records in {folder}")
    return [json.loads(path.read_text()) for path in paths]


def combined(records):
    """Returns the records of runs as one: the origin of the first, and all runs."""
    first = min(records, key=lambda record: record["date"])
    return {**{key: first[key] for key in SHARED}, "runs": records}


def progress(jobs, score):
    """Returns a context that shows a bar with the remaining time and gives the function to call as each job ends.

    Args:
        jobs: See `run_jobs`.
        score: Function of a record that returns what was found, as a string.
    """
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    @contextlib.contextmanager
    def context():
        columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
        with Progress(*columns, speed_estimate_period=24 * 3600) as shown:
            bar = shown.add_task(f"{len(jobs)} runs", total=sum(job.cost for job in jobs))
            done = []

            def on_end(job, record):
                done.append(job)
                shown.console.print(f"{job.name}: {score(record)} in {record['seconds']:.0f} s")
                shown.update(bar, advance=job.cost, description=f"{len(jobs) - len(done)} runs left")

            yield on_end

    return context()


def available_processes(given, most):
    """Returns how many processes to use: as `given`, by default one a core, at most `most`."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores if given is None else given, max(1, most)) if given != 0 else 0


def names_of(option, text):
    """Returns the names in a comma-separated option.

    Raises:
        UserError: If a name is there twice.
    """
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"{option} names {name!r} twice")
    return names

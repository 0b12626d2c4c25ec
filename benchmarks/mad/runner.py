"""The runs of a suite, as jobs."""

import dataclasses
import importlib
import json

from applications.errors import UserError
from benchmarks.mad.settings import Setting


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
    def cost(self):
        """How many tokens it trains on: about proportional to its time."""
        return self.setting.num_steps * self.setting.batch_size * self.setting.task.input_length


def jobs_of(protocol, tasks, labels, architectures, joins, learning_rates, weight_decays, seeds, **shared):
    """Returns the list of `Job`s; whole seeds come one after the other, so that what is stopped has some that compare.

    Args:
        protocol: A `settings.Protocol`.
        tasks: Names of tasks.
        labels: Labels of settings, or `None` for all.
        architectures: Names; see `architectures.mixers_of`.
        joins: Names; see `applications.joins.join_arguments`.
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


def record_of(job, command):
    """Makes a run and returns its record."""
    import keras

    from applications.provenance import provenance

    training = importlib.import_module("benchmarks.mad.training")
    keras.backend.clear_session()
    if "plugin" in job.run:
        importlib.import_module("benchmarks.mad.plugin").load_plugin(job.run["plugin"])
    found = training.train(job.setting, training.Run(**job.run))
    return {"program": "mad", "command": command, **provenance(), "settings": job.settings, **found}

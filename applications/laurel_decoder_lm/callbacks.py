"""What happens while a run trains. All have the `History`, whose step is that of the last part's end."""

import contextlib
import csv
import dataclasses
import datetime
import math
import shutil
import time

import keras
import rich.console
import rich.progress
from tensorboard.summary import Writer

from applications.distribution import gathered, undistributed
from applications.errors import UserError
from applications.laurel_decoder_lm import data
from applications.laurel_decoder_lm.generation import generate, printable
from applications.laurel_decoder_lm.model import state_variables
from applications.laurel_decoder_lm.randomness import seed_part
from keras_laurel.monitoring import join_values, laurel_joins


class Randomness(keras.callbacks.Callback):
    """Lets what each part draws depend on its place in the run, whatever else draws from PyTorch's random numbers.

    Keras does while it builds a model, and PyTorch while it begins to read.
    """

    def __init__(self, history, config, process):
        super().__init__()
        self.history = history
        self.config = config
        self.process = process

    def on_train_batch_begin(self, batch, logs=None):
        if batch == 0:
            seed_part(self.config.seed, self.history.step, self.process)


class Recorder(keras.callbacks.Callback):
    """Adds the losses and the seconds of each part to the history; must come before those that use it.

    Raises:
        UserError: If a loss is not finite.
    """

    async_safe = True

    def __init__(self, history, config, checkpoints):
        super().__init__()
        self.history = history
        self.config = config
        self.checkpoints = checkpoints

    def on_train_begin(self, logs=None):
        self.cold = True

    def on_epoch_begin(self, epoch, logs=None):
        self.losses = {}
        self.seconds = None
        self.start = time.perf_counter()

    def on_train_batch_end(self, batch, logs=None):
        if logs is not None:
            self.losses[batch] = logs["step_loss"]

    def on_test_begin(self, logs=None):
        float(self.model.step_loss.result())  # waits for the device
        self.seconds = time.perf_counter() - self.start

    def on_epoch_end(self, epoch, logs=None):
        if self.seconds is None:
            self.on_test_begin()
        losses = [self.losses[batch] for batch in sorted(self.losses)]
        for index, loss in enumerate(losses, self.history.step + 1):
            if not math.isfinite(loss):
                raise not_finite(f"the loss of step {index}", self.config, self.checkpoints)
        self.history.losses += losses
        self.history.parts.append([len(losses), self.seconds, self.cold])
        self.cold = False
        if logs is not None:  # for `Logs`, which are the chief's alone: the rate may be computed on all devices
            logs["learning_rate"] = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))


class Evaluations(keras.callbacks.Callback):
    """Adds to the history what `fit` found on the held-out documents, and what the joins have learned by then."""

    def __init__(self, history, evaluation, lm):
        super().__init__()
        self.history = history
        self.evaluation = evaluation
        self.lm = lm

    def on_epoch_end(self, epoch, logs=None):
        if logs and "val_token_loss" in logs:
            metrics = self.evaluation.metrics(float(logs["val_token_loss"]))
            self.history.held_out.append({"step": self.history.step, **metrics})
            values = {name: join_values(join) for name, join in laurel_joins(self.lm).items()}
            self.history.joins.append({"step": self.history.step, "values": values})


class Samples(keras.callbacks.Callback):
    """Adds a sample of text to the history every `config.sample_every` steps."""

    def __init__(self, history, config, lm):
        super().__init__()
        self.history = history
        self.config = config
        self.lm = lm

    def on_epoch_end(self, epoch, logs=None):
        if due(self.history.step, self.config.sample_every, self.config):
            with undistributed():  # a prompt is no batch that could be divided
                text = generate(self.lm, self.config.sample_prompt)
            self.history.samples.append({"step": self.history.step, "text": text})


class Logs(keras.callbacks.Callback):
    """Writes the history to `losses.csv`, `held_out.csv`, `samples.txt` and `tensorboard`; at first, all of it."""

    def __init__(self, history, config, folder, checkpoints):
        super().__init__()
        self.history = history
        self.config = config
        self.folder = folder
        self.checkpoints = checkpoints
        self.written = {"losses": 0, "held_out": 0, "joins": 0, "samples": 0}
        with writing(folder, checkpoints):
            for name in ("losses.csv", "held_out.csv", "samples.txt"):
                (folder / name).unlink(missing_ok=True)
            shutil.rmtree(folder / "tensorboard", ignore_errors=True)
            self.board = Writer(str(folder / "tensorboard"))
        self._write()

    def on_epoch_end(self, epoch, logs=None):
        self._write()
        self.board.add_scalar("learning_rate", (logs or {})["learning_rate"], self.history.step)

    def close(self):
        """Ends the thread that writes for TensorBoard."""
        self.board.close()

    def _new(self, name):
        start, values = self.written[name], getattr(self.history, name)
        self.written[name] = len(values)
        return values[start:]

    def _write(self):
        with writing(self.folder, self.checkpoints):
            step = self.written["losses"]
            losses = [{"step": step + i, "loss": loss} for i, loss in enumerate(self._new("losses"), 1)]
            held_out = [{**row, "seconds": self.history.seconds_at(row["step"])} for row in self._new("held_out")]
            _append(self.folder / "losses.csv", losses)
            _append(self.folder / "held_out.csv", held_out)
            with open(self.folder / "samples.txt", "a", encoding="utf-8") as file:
                file.writelines(f"step {row['step']}: {row['text']}\n\n" for row in self._new("samples"))
            for row in losses:
                self.board.add_scalar("loss", row["loss"], row["step"])
            for row in held_out:
                for key in ("loss", "perplexity", "bits_per_byte"):
                    self.board.add_scalar(f"held_out/{key}", row[key], row["step"])
            for row in self._new("joins"):
                for join, values in row["values"].items():
                    for key, value in values.items():
                        self.board.add_scalar(f"joins/{join}/{key}", value, row["step"])
            self.board.flush()


class Saver(keras.callbacks.Callback):
    """Writes a checkpoint every `config.checkpoint_every` steps; must be the last, and in all processes.

    Raises:
        UserError: If it cannot be written, or the weights are not finite.
    """

    def __init__(self, history, config, checkpoints, stream):
        super().__init__()
        self.history = history
        self.config = config
        self.checkpoints = checkpoints
        self.stream = stream
        self.before = history.step
        self.place = None

    def on_epoch_end(self, epoch, logs=None):
        step = self.history.step
        if not due(step, self.config.checkpoint_every, self.config):
            return
        count = step - self.before
        self.place = self.stream.places[count]
        if self.config.shards > 1:  # else each process reads all there is
            self.place = data.together(gathered(self.checkpoints.distribution, self.place))
        state = {"history": dataclasses.asdict(self.history), "place": self.place}
        with writing(self.checkpoints.folder, self.checkpoints):
            try:
                self.checkpoints.save(step, state_variables(self.model), state)
            except FloatingPointError as error:
                raise not_finite(f"after step {step}, {error}: training", self.config, self.checkpoints) from error
        for passed in [number for number in list(self.stream.places) if number <= count]:  # Keras reads ahead
            del self.stream.places[passed]


class Progress(keras.callbacks.Callback):
    """Shows loss, speed and remaining time: as a bar in a terminal, and as lines elsewhere.

    A context manager, so that the bar ends with the training.
    """

    async_safe = True

    def __init__(self, history, config):
        super().__init__()
        self.history = history
        self.config = config
        self.tokens = config.batch_size * config.context
        self.console = rich.console.Console()
        columns = rich.progress
        self.bar = columns.Progress(
            columns.BarColumn(),
            columns.MofNCompleteColumn(),
            columns.TextColumn("loss {task.fields[loss]:.4f}"),
            columns.TextColumn("{task.fields[rate]}"),
            columns.TimeRemainingColumn(),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self.task = self.bar.add_task("", total=config.steps, completed=history.step, loss=math.nan, rate="")
        self.said = time.monotonic()

    def __enter__(self):
        self.bar.start()
        return self

    def __exit__(self, *error):
        self.bar.stop()

    def on_train_batch_end(self, batch, logs=None):
        if logs is not None:
            self.bar.update(self.task, completed=self.history.step + batch + 1, loss=logs["step_loss"])

    def on_epoch_end(self, epoch, logs=None):
        history, total = self.history, self.config.steps
        steps, seconds, _ = history.parts[-1]
        rate = steps * self.tokens / seconds
        self.bar.update(self.task, completed=history.step, rate=f"{rate:,.0f} tokens/s")
        evaluated = history.held_out and history.held_out[-1]["step"] == history.step
        if evaluated or (not self.console.is_terminal and time.monotonic() - self.said > 30):
            self.said = time.monotonic()
            left = datetime.timedelta(seconds=round((total - history.step) * seconds / steps))
            line = f"step {history.step}/{total}: loss {history.losses[-1]:.4f}, {rate:,.0f} tokens/s, {left} left"
            if evaluated:
                row = history.held_out[-1]
                line += f"; held out: loss {row['loss']:.4f}, perplexity {row['perplexity']:.2f}, "
                line += f"{row['bits_per_byte']:.4f} bits per byte"
            self._say(line)
        if history.samples and history.samples[-1]["step"] == history.step:
            self._say(printable(history.samples[-1]["text"]))

    def _say(self, line):
        self.console.print(line, markup=False, highlight=False, soft_wrap=True)


def due(step, every, config):
    """Returns whether something that happens every `every` steps, and at the end, happens after `step`."""
    return every > 0 and (step % every == 0 or step == config.steps)


@contextlib.contextmanager
def writing(path, checkpoints):
    """Turns an error of the system into one line that says what is kept."""
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot write to {path}: {error.strerror or error}; {kept(checkpoints)}") from error


def not_finite(what, config, checkpoints):
    """Returns the error about a value that is not finite."""
    return UserError(
        f"{what} is not finite; a learning_rate below {config.learning_rate} may help; {kept(checkpoints)}"
    )


def kept(checkpoints):
    """Returns the words on what a stop leaves."""
    path = checkpoints.last()
    return f"the last good checkpoint is {path}" if path else "there is no checkpoint yet"


def _append(path, rows):
    with open(path, "a", newline="") as file:
        if rows:
            writer = csv.DictWriter(file, rows[0])
            if not file.tell():
                writer.writeheader()
            writer.writerows(rows)

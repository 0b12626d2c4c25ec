"""Where texts come from: the built-in Shakespeare, files or TFDS, as documents that are read when asked for."""

import array
import codecs
import dataclasses
import glob
import gzip
import hashlib
import importlib.resources
import itertools
import lzma
import mmap
import re
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from applications.errors import UserError
from applications.files import writable_folder, write_whole

FORMS = "shakespeare, files:GLOB[,GLOB...] (plain, .xz or .gz), tfds:NAME[/CONFIG]"
END_OF_TEXT = "<|endoftext|>"
LONGEST = 2**14
TEST_SPLITS = ("test", "validation", "val")
_OPENERS = {".xz": lzma.open, ".gz": gzip.open}
_MARKER = re.compile(re.escape(END_OF_TEXT.encode()) + rb"(?:\r?\n|\Z)")
_VISIBLE = re.compile(rb"\S")


class Document(NamedTuple):
    """A document, or a piece of a long one.

    Attributes:
        text: A string.
        ends: Whether the document ends with it.
    """

    text: str
    ends: bool


@dataclasses.dataclass(frozen=True)
class Documents:
    """A sequence of documents, none of which is in memory before it is asked for. Several threads may ask.

    A file is one document, unless lines `<|endoftext|>` or `Config.document_start` divide it. Where a file has a
    document longer than 16 KiB, it comes in pieces that end with a paragraph, a line or a word, to be shuffled.

    Attributes:
        name: Where they are from.
        count: How many there are.
        read: Function of an index that returns a `Document`.
        num_bytes: Length of the UTF-8 texts together, where it is known without reading them.
    """

    name: str
    count: int
    read: Callable[[int], Document]
    num_bytes: int | None = None

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        if not 0 <= index < self.count:
            raise IndexError(index)
        return self.read(index)


@dataclasses.dataclass(frozen=True)
class Texts:
    """What a run reads.

    Attributes:
        train: The `Documents` to train on.
        held_out: `Documents` of the same text that are never trained on, the same for all seeds; `None` if
            `Config.held_out` is 0.
        test: `Documents` for the end, or `None`.
    """

    train: Documents
    held_out: Documents | None
    test: Documents | None


def load(config):
    """Returns the `Texts` that `config` names.

    Raises:
        UserError: If they are not there, or not as they must be.
    """
    train, held_out, test = _load(config.text, config)
    if config.test_text is not None:
        whole, _, split = _load(config.test_text, dataclasses.replace(config, held_out=0.0))
        test = split or whole
    return Texts(train, held_out, test)


def of_texts(name, texts):
    """Returns a list of strings as `Documents`, whole."""
    return Documents(
        name, len(texts), lambda index: Document(texts[index], True), sum(len(text.encode()) for text in texts)
    )


def _load(text, config) -> tuple[Documents, Documents | None, Documents | None]:
    """Returns the documents to train on, those that are held out, and those of a test split; the latter may be None."""
    form, _, name = text.partition(":")
    if text == "shakespeare":
        path = importlib.resources.files("keras_laurel.datasets") / "tinyshakespeare.txt"
        with importlib.resources.as_file(path) as file:
            return *_file_documents(text, [_mapped(file)], config), None
    if form == "files" and name:
        return *_file_documents(text, [_mapped(_plain(path, config)) for path in _matching(name)], config), None
    if form == "tfds" and name:
        return _tfds_documents(text, name, config)
    raise UserError(f"unknown text {text!r}; known: {FORMS}")


def _held_out_step(config):
    """Returns that each how-manieth document is held out, or 0 for none."""
    return round(1 / config.held_out) if config.held_out else 0


def _matching(patterns):
    """Returns the sorted paths of the files that match, each once."""
    paths = []
    for pattern in patterns.split(","):
        found = sorted(path for path in glob.glob(pattern, recursive=True) if Path(path).is_file())
        if not found:
            raise UserError(f"no file matches {pattern}")
        paths += found
    return [Path(path) for path in dict.fromkeys(paths)]


def _plain(path, config):
    """Returns the path of `path` without compression: of a file that is made once."""
    if path.suffix not in _OPENERS:
        return path
    status = path.stat()
    digest = hashlib.sha256(f"{path.resolve()} {status.st_size} {status.st_mtime_ns}".encode()).hexdigest()[:12]
    stem = Path(path.stem)
    plain = writable_folder(config.data_dir or "runs/data") / f"{stem.stem}-{digest}{stem.suffix}"

    def decompress(temporary):
        with _OPENERS[path.suffix](path, "rb") as source, open(temporary, "wb") as target:
            shutil.copyfileobj(source, target, 2**20)

    if not plain.exists():
        try:
            write_whole(plain, decompress)
        except (EOFError, OSError, lzma.LZMAError, zlib.error) as error:
            raise UserError(f"cannot decompress {path} to {plain}: {error}") from error
    return plain


def _mapped(path):
    """Returns the UTF-8 text of a file as bytes that the system reads when they are asked for."""
    try:
        with open(path, "rb") as file:
            if path.stat().st_size == 0:
                raise UserError(f"{path} is empty")
            view = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise UserError(f"cannot read the text {path}: {error.strerror}") from error
    decoder = codecs.getincrementaldecoder("utf-8")()
    for start in range(0, len(view), 2**20):
        before = len(decoder.getstate()[0])
        try:
            decoder.decode(view[start : start + 2**20], final=start + 2**20 >= len(view))
        except UnicodeDecodeError as error:
            place = start - before + error.start
            raise UserError(f"{path} is not UTF-8 text: byte {place} cannot be decoded") from error
    return view


def _file_documents(name, views, config) -> tuple[Documents, Documents | None]:
    """Returns the documents of mapped files to train on, and those that are held out or None."""
    flat = array.array("q")
    for i, view in enumerate(views):
        for start, end in _spans(view, config.document_start):
            flat.extend((i, start, end, True))
    spans = np.frombuffer(flat, "int64").reshape(-1, 4)
    if len(spans) == 0:
        raise UserError(f"{name} has nothing but white space")
    step = _held_out_step(config)
    if not step:
        return _pieces(name, views, spans), None
    if len(spans) >= step:
        chosen = np.arange(len(spans)) % step == step - 1
        parts = spans[~chosen], spans[chosen]
    else:
        parts = _last_bytes_apart(views, spans, config.held_out)
    _check_parts(name, parts, config)
    train, held_out = (_pieces(name, views, part) for part in parts)
    return train, held_out


def _check_parts(name, parts, config):
    for part, use in zip(parts, ("train on", "hold out")):
        if len(part) == 0:
            raise UserError(f"held_out={config.held_out} leaves nothing of {name} to {use}")


def _spans(view, document_start):
    """Yields `(start, end)` of each document of a mapped file that is more than white space."""
    starter = re.compile(rb"\n\r?\n(?=" + re.escape(document_start.encode()) + rb")")
    for start, end in _between_markers(view):
        cuts = [match.end() for match in starter.finditer(view, start, end)] if document_start else []
        for span in itertools.pairwise([start, *cuts, end]):
            if _VISIBLE.search(view, *span):
                yield span


def _between_markers(view):
    start = 0
    for match in _MARKER.finditer(view):
        if match.start() == 0 or view[match.start() - 1 : match.start()] == b"\n":
            yield start, match.start()
            start = match.end()
    yield start, len(view)


def _last_bytes_apart(views, spans, part):
    """Cuts the last `part` of all bytes off the spans."""
    ends = np.cumsum(spans[:, 2] - spans[:, 1])
    size = ends[-1] - round(part * ends[-1])
    row = int(np.searchsorted(ends, size, side="right"))
    if row == len(spans):
        return spans, spans[:0]
    file, start, end, _ = spans[row].tolist()
    cut = _break_before(views[file], start, end - int(ends[row] - size))
    before, after = np.array([(file, start, cut, False), (file, cut, end, True)], "int64")[:, None]
    train = [spans[:row], before] if cut > start else [spans[:row]]
    return np.concatenate(train), np.concatenate([after, spans[row + 1 :]])


def _pieces(name, views, spans):
    """Returns the spans as `Documents`, the long ones in pieces."""
    flat = array.array("q")
    for file, start, end, ends in spans.tolist():
        while end - start > LONGEST:
            cut = _break_before(views[file], start, start + LONGEST)
            flat.extend((file, start, cut, False))
            start = cut
        flat.extend((file, start, end, ends))
    pieces = np.frombuffer(flat, "int64").reshape(-1, 4)

    def read(index):
        file, start, end, ends = pieces[index].tolist()
        return Document(views[file][start:end].decode("utf-8"), bool(ends))

    return Documents(name, len(pieces), read, int((pieces[:, 2] - pieces[:, 1]).sum()))


def _break_before(view, start, stop):
    """Returns the end of the last paragraph, else line, else word, else character, at or before `stop`."""
    lowest = max(start, stop - LONGEST // 2)
    for end in (b"\n\n", b"\n", b" "):
        at = view.rfind(end, lowest, stop)
        if at != -1:
            return at + len(end)
    while view[stop] & 0xC0 == 0x80:
        stop -= 1
    return stop


def _tfds_documents(text, name, config):
    """Returns the documents of a TFDS set to train on, those that are held out, and those of its test split."""
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise UserError(f"{text} needs tensorflow-datasets: pip install 'keras-laurel[text]'") from error
    try:
        builder = tfds.builder(name, data_dir=config.data_dir)
        if not builder.is_prepared():
            random_access = tfds.core.FileFormat.ARRAY_RECORD
            builder = tfds.builder(name, data_dir=config.data_dir, file_format=random_access)
            builder.download_and_prepare()
        splits = builder.as_data_source()
    except tfds.core.DatasetNotFoundError:
        raise UserError(f"TFDS knows no data set {name!r}; known forms of text: {FORMS}") from None
    except NotImplementedError as error:
        raise UserError(
            f"{text} is prepared in a format without random access: prepare it again in another data_dir with "
            f"tfds build {name} --file_format=array_record"
        ) from error
    except (AssertionError, OSError, ValueError) as error:  # no files, no network; wrong version
        raise UserError(f"cannot prepare {text}: {str(error).strip().splitlines()[0]}") from error
    if "train" not in splits:
        raise UserError(f"{text} needs a split train; it has: {', '.join(splits)}")
    features = builder.info.features
    if not isinstance(dict(features).get("text"), tfds.features.Text):
        raise UserError(f"{text} is no text set: it has no feature text; its features are {', '.join(features)}")

    def documents(source, indices):
        def read(index):
            return Document(source[indices[index]]["text"].decode("utf-8", "replace"), True)

        return Documents(text, len(indices), read)

    source = splits["train"]
    test = next((documents(splits[key], range(len(splits[key]))) for key in TEST_SPLITS if key in splits), None)
    step = _held_out_step(config)
    if not step:
        return documents(source, range(len(source))), None, test
    parts = _AllBut(len(source), step), range(step - 1, len(source), step)
    _check_parts(text, parts, config)
    train, held_out = (documents(source, part) for part in parts)
    return train, held_out, test


@dataclasses.dataclass(frozen=True)
class _AllBut:
    """The numbers below `count` without each `step`-th, as `range` would be if it could: none of them is kept."""

    count: int
    step: int

    def __len__(self):
        return self.count - self.count // self.step

    def __getitem__(self, index):
        return index + index // (self.step - 1)

"""The six synthetic tasks: each class holds a task's settings, with those of the published baseline as defaults."""

from benchmarks.mad.tasks.compression import Compression as Compression
from benchmarks.mad.tasks.fuzzy_in_context_recall import FuzzyInContextRecall as FuzzyInContextRecall
from benchmarks.mad.tasks.in_context_recall import InContextRecall as InContextRecall
from benchmarks.mad.tasks.in_context_recall import NoisyInContextRecall as NoisyInContextRecall
from benchmarks.mad.tasks.memorization import Memorization as Memorization
from benchmarks.mad.tasks.selective_copying import SelectiveCopying as SelectiveCopying
from benchmarks.mad.tasks.task import IGNORE as IGNORE
from benchmarks.mad.tasks.task import SEED as SEED
from benchmarks.mad.tasks.task import Dataset as Dataset
from benchmarks.mad.tasks.task import Examples as Examples
from benchmarks.mad.tasks.task import Task as Task

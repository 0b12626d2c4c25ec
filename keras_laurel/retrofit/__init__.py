"""Makes the residual joins of an existing model LAuReL joins."""

from keras_laurel.retrofit.convert import find_joins as find_joins
from keras_laurel.retrofit.convert import laurelize as laurelize
from keras_laurel.retrofit.report import Join as Join
from keras_laurel.retrofit.report import LeftAlone as LeftAlone
from keras_laurel.retrofit.report import Report as Report
from keras_laurel.retrofit.wrapper import LaurelWrapper as LaurelWrapper

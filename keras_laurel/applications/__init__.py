"""Models built with LAuReL joins."""

from keras_laurel.applications.laurel_resnet50 import LaurelResNet50 as LaurelResNet50

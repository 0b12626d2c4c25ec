"""Small data that ships with the package."""

from keras_laurel.datasets import tinyshakespeare as tinyshakespeare

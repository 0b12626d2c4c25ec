"""Training over many devices, by the engine of the backend."""

from keras_laurel.distribution.distribution import Distribution as Distribution
from keras_laurel.distribution.distribution import distribute as distribute

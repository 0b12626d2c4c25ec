"""Folds alpha and beta of LAuReL joins into the layers around them."""

from keras_laurel.folding.model import fold as fold

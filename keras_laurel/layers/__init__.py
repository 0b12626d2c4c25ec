"""The LAuReL join and the parts that it is composed of."""

from keras_laurel.layers.laurel import Laurel as Laurel
from keras_laurel.layers.laurel_lr import LaurelLR as LaurelLR
from keras_laurel.layers.laurel_pa import LaurelPA as LaurelPA
from keras_laurel.layers.laurel_rw import LaurelRW as LaurelRW
from keras_laurel.layers.low_rank import LowRank as LowRank
from keras_laurel.layers.previous_activations import PreviousActivations as PreviousActivations
from keras_laurel.layers.residual_weights import ResidualWeights as ResidualWeights

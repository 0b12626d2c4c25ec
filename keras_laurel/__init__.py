"""LAuReL, the learned augmented residual layer, for Keras 3."""

from keras_laurel import datasets as datasets
from keras_laurel import distribution as distribution
from keras_laurel import initializers as initializers
from keras_laurel import layers as layers
from keras_laurel import mixers as mixers
from keras_laurel.folding import fold as fold
from keras_laurel.gemma3n import load_gemma3n_weights as load_gemma3n_weights
from keras_laurel.history import History as History
from keras_laurel.joins import residual as residual
from keras_laurel.layers import Laurel as Laurel
from keras_laurel.layers import LaurelLR as LaurelLR
from keras_laurel.layers import LaurelPA as LaurelPA
from keras_laurel.layers import LaurelRW as LaurelRW
from keras_laurel.monitoring import LaurelMonitor as LaurelMonitor
from keras_laurel.monitoring import exclude_from_weight_decay as exclude_from_weight_decay
from keras_laurel.monitoring import laurel_weights as laurel_weights
from keras_laurel.retrofit import LaurelWrapper as LaurelWrapper
from keras_laurel.retrofit import find_joins as find_joins
from keras_laurel.retrofit import laurelize as laurelize

__version__ = "0.1.0"

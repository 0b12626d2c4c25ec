"""Sequence and channel mixers: the branches that residual joins join."""

from keras_laurel.mixers.causal_attention import CausalAttention as CausalAttention
from keras_laurel.mixers.mlp import MLP as MLP
from keras_laurel.mixers.swiglu import SwiGLU as SwiGLU

"""Sequence and channel mixers: the branches that residual joins join."""

from keras_laurel.mixers.causal_attention import CausalAttention as CausalAttention
from keras_laurel.mixers.causal_conv import CausalConv as CausalConv
from keras_laurel.mixers.gated_linear_attention import GatedLinearAttention as GatedLinearAttention
from keras_laurel.mixers.hyena import Hyena as Hyena
from keras_laurel.mixers.hyena_experts import HyenaExperts as HyenaExperts
from keras_laurel.mixers.implicit_filter import ImplicitFilter as ImplicitFilter
from keras_laurel.mixers.linear_attention import LinearAttention as LinearAttention
from keras_laurel.mixers.mamba import Mamba as Mamba
from keras_laurel.mixers.mixture_of_experts import MixtureOfExperts as MixtureOfExperts
from keras_laurel.mixers.mlp import MLP as MLP
from keras_laurel.mixers.multi_head_hyena import MultiHeadHyena as MultiHeadHyena
from keras_laurel.mixers.swiglu import SwiGLU as SwiGLU

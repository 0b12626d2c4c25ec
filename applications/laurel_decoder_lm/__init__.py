"""The recipe of LaurelDecoderLM: data, training, evaluation and generation."""

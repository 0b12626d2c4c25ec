"""Mechanistic architecture design (Poli et al. 2024, arXiv 2403.17844): synthetic tasks that judge architectures."""

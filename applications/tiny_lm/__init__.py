"""Trains a small decoder LM once per kind of residual join, side by side, on real text."""

"""IsoFLOP scaling: at several budgets of compute, which size of a model is best, and what a join changes in it."""

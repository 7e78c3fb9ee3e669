"""Searching: space, samplers, the loop, early stopping, dominance and selection. The only room that imports optuna."""

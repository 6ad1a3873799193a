"""Experiments: grids of datasets, recipes and seeds, on this machine or on many."""

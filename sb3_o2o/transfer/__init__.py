"""Weights in and out: load_offline, to_sb3, cloning, saved models."""

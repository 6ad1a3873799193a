"""Training runs: folder, configuration, environments, training, pictures."""

"""A run's files: its directory, its checkpoints, and the network in them."""

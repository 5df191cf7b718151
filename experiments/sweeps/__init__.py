"""Sweeps over many runs: planning, workers and progress."""

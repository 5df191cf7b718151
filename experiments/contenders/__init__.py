"""What the benchmark runs: this project, stock Flax, and the authors' PyTorch programs."""

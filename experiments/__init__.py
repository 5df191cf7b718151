"""The articles as scripts, the programs they are compared with, and the benchmark."""

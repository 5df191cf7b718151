"""Pictures of runs and the pages they stand on."""

"""The drawing page: one HTML file with a network in plain JavaScript and its weights."""

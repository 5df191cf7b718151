"""A page to draw on: one HTML file with a network in plain JavaScript and its weights."""

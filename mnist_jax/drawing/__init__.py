"""A page to draw on: a network in plain JavaScript, with its weights, in one HTML file."""

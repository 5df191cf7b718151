"""Weights in other frameworks' files."""

"""Weights and networks in other frameworks' formats."""

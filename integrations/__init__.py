"""Thin adapters between other libraries and Tutelage."""

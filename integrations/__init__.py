"""Thin files that fit other libraries to Tutelage."""

"""A teacher's stages, in the order of the data:

inputs -> read_ahead -> forward (on devices) -> transfer -> gather -> encode.
"""

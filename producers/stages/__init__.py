"""A teacher's stages, in the order of the data:

inputs -> read_ahead -> devices -> transfer -> gather -> encoding.
"""

"""A teacher's stages, in the order of the data: inputs -> devices -> transfer -> gather -> encoding."""

"""Random access to the rows of knowledge files, as map-style torch datasets."""

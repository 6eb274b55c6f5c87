"""The toy: two untrained teachers, 2x-1 and 2x+1, and a student that merges their predictions."""

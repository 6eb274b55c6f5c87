"""The seed example: two untrained teachers, 2x-1 and 2x+1, and a student that merges what they predict."""

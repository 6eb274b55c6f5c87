"""Queries -> answers: what a replica of a teacher does."""

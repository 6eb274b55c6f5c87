"""A student that asks its teacher about what it generates itself."""

"""A student repeats its teacher's random crops from seeds alone."""

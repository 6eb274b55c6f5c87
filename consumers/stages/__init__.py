"""A student's stages, in the order of the data: order -> rebatch -> align -> merge."""

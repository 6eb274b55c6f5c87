"""A student asks its teacher about texts that it wrote itself, while replicas start and die."""

"""A distillation on real data: three experts on different digits teach a small student."""

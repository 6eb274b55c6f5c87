"""A real distillation on real data: three experts on different digits, and a small student that learns from them."""

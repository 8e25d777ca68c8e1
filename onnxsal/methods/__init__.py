"""What wraps or replaces a walk, from model in to model out."""

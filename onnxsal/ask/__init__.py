"""What is asked of a model: which tensor is explained, by which scores, what one sample is, which layer is looked at."""

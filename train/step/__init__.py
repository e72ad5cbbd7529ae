"""A step of training: sharding, state, gradient accumulation, and the compiled program."""

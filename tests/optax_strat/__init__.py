"""The tests of the library alone: they need JAX, Optax and other people's libraries of layers."""

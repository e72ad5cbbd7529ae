"""The harness: trains `models` with any optimizer on sharded meshes, and compares optimizers honestly."""

"""The harness: trains `models` on sharded meshes, and compares optimizers on equal terms."""

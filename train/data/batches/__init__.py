"""Token files to batches: the order of tokens, packing, rows, and the loader."""

"""One run: its loop, records, checkpoints, folder and weights."""

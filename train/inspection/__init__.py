"""What needs no training run: planning, explaining and replaying."""

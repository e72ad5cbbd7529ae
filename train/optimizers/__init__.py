"""One optimizer a file: its settings, how it is built, and what of it is tuned."""

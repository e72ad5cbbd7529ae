"""Documents to token files: tokenizers, splitting, encoding, and checking what was written."""

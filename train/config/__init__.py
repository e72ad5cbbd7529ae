"""What a run, a comparison and a mesh are; the named ones; reading and hashing them."""

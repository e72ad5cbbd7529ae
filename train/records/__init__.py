"""What a line of records holds; writing, reading and checking it."""

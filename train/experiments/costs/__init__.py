"""What a step of each optimizer costs, measured side by side."""

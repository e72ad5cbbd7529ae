"""What is trained: initial parameters, loss and batches."""

"""What the output must match."""

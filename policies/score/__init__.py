"""What confidence means."""

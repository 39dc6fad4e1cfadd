"""Whether commits may be taken back."""

"""The plain decoder: the oracle of correctness, never optimised."""

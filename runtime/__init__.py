"""Decoding with compiled programs."""

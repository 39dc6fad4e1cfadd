"""Decoding policies: axes, their members, and configurations of one member per axis."""

"""Which rows may commit."""

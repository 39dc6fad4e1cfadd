"""Which rows commit now."""

"""Program loaders and runners."""

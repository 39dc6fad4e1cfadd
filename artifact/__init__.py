"""What a compiled model is on disk: manifest, hashes, reading and writing."""

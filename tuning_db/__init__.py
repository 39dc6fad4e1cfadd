"""Tuning records: schema, store and lookup."""

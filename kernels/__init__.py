"""Canonical operators: reference, kernel and registration, one file each."""

"""The search for the decoding configuration that fits a task and a machine."""

"""The `dllmc` command."""

"""Triton code of the operators: `dllmc.kernels` registers it, and imports it when it first runs.

A module holds the kernels of one operator and how they are launched. Its configurations stand in
`configurations.json`, by kernel and architecture; nothing is tuned while it runs, since another
choice may round otherwise and commit other tokens.
"""

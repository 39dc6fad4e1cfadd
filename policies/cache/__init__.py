"""Which rows are evaluated and which keys are remembered."""

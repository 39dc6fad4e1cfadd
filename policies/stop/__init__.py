"""When a row is finished."""

"""How drafts are verified."""

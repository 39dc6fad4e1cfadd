"""What is fed for undecided rows."""

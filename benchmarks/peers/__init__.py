"""The same work on other systems, each in the way that its own documentation advises."""

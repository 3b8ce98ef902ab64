"""Where the rooms meet: protocols with their law in the docstring."""

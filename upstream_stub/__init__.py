"""A short name for the neighbour upstream; its code is in `stage/neighbours/upstream/`."""

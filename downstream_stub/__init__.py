"""A short name for the neighbour downstream; its code is in `stage/neighbours/downstream/`."""

"""The neighbour downstream: the tail of the chain, which books one effect for each saga."""

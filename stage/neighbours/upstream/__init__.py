"""The neighbour upstream: it takes orders, starts their sagas and compensates them on request."""

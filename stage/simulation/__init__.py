"""A whole chain in one thread on virtual time: real machine, engine and store, simulated world."""

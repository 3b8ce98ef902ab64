"""Runs sagas: asks the core what to do, writes it in the store, does it through the links."""

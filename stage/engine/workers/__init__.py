"""Several processes that serve one stage together, each with the sagas of its own file."""

"""The edge: HTTP in, one file an endpoint."""

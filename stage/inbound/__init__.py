"""HTTP requests in, answers out: an endpoint a file, and an adapter for each kind of server."""

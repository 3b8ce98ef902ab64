"""The payment service on each system. They run in environments of their own, without ours."""

"""Incidents, each at a stage of its own, and the alert that a real Prometheus must raise for it."""

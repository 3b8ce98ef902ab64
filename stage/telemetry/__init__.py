"""Observes the sagas: spans, metrics and log lines. It never fails a saga and never waits."""

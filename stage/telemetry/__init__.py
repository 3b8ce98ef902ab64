"""Watches what happens: spans, trace context and log lines. It never fails or slows a saga."""

"""Measures the stage against the ceiling, the hand-written handler and other systems."""

"""Judges a neighbour that others wrote: `python -m stage.neighbours.conformance`.

It asks as a stage does, and believes as a stage does.
"""

"""A small neighbour downstream, with scripted misbehaviour.

It imports stage.wire and nothing else of ours.
"""

"""A small neighbour upstream, with scripted misbehaviour.

It imports stage.wire and nothing else of ours.
"""

"""Orchestrators that drive a chain of stages in place of one stage handing on to the next.

Each speaks the protocol to its stages as their upstream; the stages do not know the difference.
"""

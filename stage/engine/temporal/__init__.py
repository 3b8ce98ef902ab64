"""Temporal says when and where a saga is run; the journal stays in the store."""

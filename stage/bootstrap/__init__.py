"""Puts a stage together: the one room that knows every other. Nothing happens at import."""

from stage.bootstrap.database import Database, make_store, open_database
from stage.bootstrap.process import serve
from stage.bootstrap.reconcile import reconcile
from stage.bootstrap.wiring import build_app, build_asgi

__all__ = [
    "Database",
    "build_app",
    "build_asgi",
    "make_store",
    "open_database",
    "reconcile",
    "serve",
]

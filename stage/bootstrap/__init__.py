"""Puts a stage together: the one room that knows every other. Nothing happens at import."""

from stage.bootstrap.database import Migrations, make_store, open_migrations
from stage.bootstrap.process import serve
from stage.bootstrap.wiring import build_app, build_asgi

__all__ = ["Migrations", "build_app", "build_asgi", "make_store", "open_migrations", "serve"]

"""Replaces pieces of the OpenTelemetry SDK for speed; `install.install` is the only way in.

Nothing outside of this folder touches internals of the SDK.
"""

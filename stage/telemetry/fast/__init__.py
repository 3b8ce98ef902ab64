"""What replaces pieces of the OpenTelemetry SDK for speed."""

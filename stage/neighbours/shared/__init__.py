"""The plumbing that both neighbours need: trace context, spans, scripts, errors, serving."""

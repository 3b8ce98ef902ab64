"""Two small neighbours with scripted misbehaviour, to try a stage with.

Each is a service of its own, as another team would write it: it speaks the public protocol of
`stage.wire` and imports no other room. `stage.demo` starts both.
"""

"""Pages for operators: what the API answers, drawn for a browser, and forms that ask it to act.

Nothing here knows the engine or the store. A page asks the endpoints of `stage.inbound` in the name
of its reader, so that it shows nothing and does nothing that the API would not.
"""

from stage.console.screens import Console

__all__ = ["Console"]

"""Members that other clients and frameworks have and ours do not, each with its mend.

`stage check` says them of the source, and the error says them where the source showed nothing: an
AttributeError within a call is a doubt or a failed undo, of which nobody sees the text otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from stage.authoring.annotations import declaring_frame, declaring_place
from stage.core.errors import AuthorDefect

_LOOK: Final = "look at answer.status and the body, and raise Refused or Transient"
_WHOLE: Final = "it was read whole: answer.body are the bytes, answer.text() and answer.json()"
_CALLED: Final = "each request is http.<method>(...), which has no session of its own"

OF_AN_ANSWER: Final[Mapping[str, str]] = {
    **dict.fromkeys(("code", "status_code"), "write answer.status"),
    **dict.fromkeys(("is_error", "is_success", "ok"), "compare answer.status, as in == 201"),
    **dict.fromkeys(("is_client_error", "is_server_error"), "compare answer.status"),
    "raise_for_status": _LOOK,
    **dict.fromkeys(("content", "data"), "write answer.body, or answer.json()"),
    **dict.fromkeys(("aiter_bytes", "aread", "iter_content", "iter_lines", "read"), _WHOLE),
    **dict.fromkeys(("aclose", "close", "release"), f"{_WHOLE}; leave it out"),
    "get": "write answer.json()['...'] for a member, answer.headers for a header",
    **dict.fromkeys(("cookies", "history", "links"), "read answer.headers"),
    **dict.fromkeys(("elapsed", "request", "url"), "the stage keeps it, in the span: leave it out"),
    **dict.fromkeys(("reason", "reason_phrase"), "no API says anything by it: leave it out"),
}
"""Members of an answer of `requests`, `httpx` or `aiohttp`."""

_OPERATORS: Final = "it is the operator's, in [externals.NAME] of stage.toml: leave it out"
OF_A_REQUEST: Final[Mapping[str, str]] = {
    **dict.fromkeys(("body", "content"), "write json=, or data= for bytes"),
    **dict.fromkeys(("files", "form"), "encode it, and give the bytes as data="),
    "timeout": "write timeout= at @stage.call",
    **dict.fromkeys(("auth", "cert", "proxies", "proxy", "ssl", "verify"), _OPERATORS),
    "cookies": "write headers={'Cookie': ...}",
    **dict.fromkeys(("allow_redirects", "follow_redirects"), "none is followed: leave it out"),
    **dict.fromkeys(("raise_for_status",), _LOOK),
    **dict.fromkeys(("retries", "retry"), "the engine repeats it, attempts_max at @stage.call"),
    "stream": f"{_WHOLE}; leave it out",
    "url": "give the path first, as '/charges'",
}
"""Keywords that the methods of other clients take."""

OF_HTTP: Final[Mapping[str, str]] = {
    **dict.fromkeys(("auth", "cookies", "headers"), "give headers= to each request"),
    **dict.fromkeys(("client", "session"), _CALLED),
    "base_url": _OPERATORS,
    "timeout": "write timeout= at @stage.call",
}
"""Members of other clients that are no methods."""

OF_A_SAGA: Final[Mapping[str, str]] = {
    **dict.fromkeys(("saga_id", "run_id", "workflow_id"), "write saga.id"),
    **dict.fromkeys(("context", "state"), "write saga.data, which is the whole context"),
    **dict.fromkeys(("args", "body", "payload", "request"), "write saga.input"),
    **dict.fromkeys(("idempotency_key", "step_key"), "write saga.key"),
    **dict.fromkeys(("output", "outputs", "results"), "write saga.result(step)"),
    **dict.fromkeys(("attempts", "retries", "retry"), "write saga.attempt"),
    **dict.fromkeys(("remaining", "timeout"), "write saga.budget"),
    **dict.fromkeys(("stages", "steps"), "write saga.trail, or saga.result(step)"),
}
"""Names that other frameworks give to the members of a saga."""


class NoMember(AuthorDefect, AttributeError):
    """A function asked for a member that an answer or a saga does not have."""


def lacks(of: str, name: str, mends: Mapping[str, str], members: str) -> str:
    """The member that is not there, and its mend or all that there is."""
    mend = mends.get(name, "")
    return f"{of} has no {name}: {mend or f'it has {members}'}"


def no_member(of: str, name: str, mends: Mapping[str, str], kind: type) -> NoMember:
    """The error for a member that a thing of that type does not have.

    A name that does not stand in the author's source may be data, and is not quoted.
    """
    frame = declaring_frame()
    written = name in mends or (frame is not None and name in frame.f_code.co_names)
    text = lacks(of, name if written else "such member", mends, members_of(kind))
    return NoMember(f"{declaring_place()}: {text}", name=name)


def members_of(kind: type) -> str:
    """The members of a type for authors, methods with their brackets: `body, json(), status`."""
    names = sorted(name for name in dir(kind) if not name.startswith("_"))
    return ", ".join(f"{each}()" if callable(getattr(kind, each)) else each for each in names)

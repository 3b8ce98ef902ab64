"""The checks of every request, whoever sends it: no web page of a stranger may send one.

A browser sends what a page asks it to, also to addresses that only its user reaches, and a page may
point a name of its own at any address. Both are seen in headers that no page can change.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

from stage.inbound.local import MAPPED
from stage.inbound.request import Door, Request
from stage.wire import headers as h
from stage.wire.problem import WireError

HOST = "Host"
ORIGIN = "Origin"
SEC_FETCH_SITE = "Sec-Fetch-Site"
FORM = "application/x-www-form-urlencoded"
LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")
WILDCARDS = frozenset({"", "0.0.0.0", "::"})  # noqa: S104 - compared with, not bound to


class Hosts:
    """The names under which this stage may be asked for.

    The names of loopback, the configured ones, and the address that a connection came in at: no
    page can have an address for its name.
    """

    def __init__(self, names: Iterable[str] = ()) -> None:
        given = (name for name in names if name not in WILDCARDS)
        self._names = frozenset(_bracketed(name.lower()) for name in (*LOOPBACK_NAMES, *given))

    def check(self, request: Request) -> None:
        """Raise WireError 403 for a foreign host. Browsers always send one: without is no page."""
        values = request.headers.getall(HOST, ())
        if not values or request.door is Door.LOCAL:
            return
        name = host_name(values[0])
        if len(values) == 1 and (name in self._names or name in _shown(request.local_address)):
            return
        raise WireError(
            403,
            "Host not known",
            "the request is for a host that this stage does not answer for",
            hint="add its name to allowed_hosts in the configuration of this stage",
            retryable=True,
        )


def check_page(request: Request) -> None:
    """Raise WireError 403 for what a page of another site sends."""
    origins = request.headers.getall(ORIGIN, ())
    site = request.headers.get(SEC_FETCH_SITE, "")
    if not origins and not site:
        return  # a program
    host = request.headers.get(HOST, "").lower()
    foreign = any(origin.lower().partition("://")[2] != host for origin in origins)
    if foreign or site.lower() == "cross-site":
        raise WireError(
            403,
            "Page not known",
            "the request comes from a web page of another site",
            hint="programs send neither Origin nor Sec-Fetch-Site",
        )


def check_posted(request: Request) -> None:
    """Raise WireError 415 for a POST that does not say it is JSON, an empty one as well.

    A page may post any other type to any address without asking first.
    """
    if request.method == "POST":
        h.check_content_type(request.headers.get("Content-Type", ""))


def check_form(request: Request) -> None:
    """Raise WireError 403 for a form that no page of our own sent, 415 for what is no form.

    A browser adds what its user typed in for us to the forms of any page. `check_page` has
    compared the origin; here there has to be one, which every browser sends with a POST.
    """
    site = request.headers.get(SEC_FETCH_SITE, "").lower()
    if len(request.headers.getall(ORIGIN, ())) != 1 or site not in ("", "same-origin"):
        raise WireError(
            403,
            "Page not known",
            "the form was sent by no page of this console",
            hint="programs use the API: GET /openapi.json describes it",
        )
    kind = request.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if kind != FORM:
        raise WireError(
            415, "Not a form", f"the body is {kind or 'of no type'}", hint=f"send {FORM}"
        )


@lru_cache(maxsize=64)
def host_name(value: str) -> str:
    """The host in a Host header without its port, in lower case."""
    name = value.strip().lower()
    if name.startswith("["):
        return name.partition("]")[0] + "]"
    return name.partition(":")[0].rstrip(".")


def _bracketed(address: str) -> str:
    return f"[{address}]" if ":" in address and not address.startswith("[") else address


def _shown(address: str) -> tuple[str, ...]:
    """The address that a connection came in at, as a Host header may have it.

    A socket for both families, such as that of `gunicorn -b [::]:8080`, has those of IPv4 mapped.
    """
    address = address.lower()
    return _bracketed(address), _bracketed(address.removeprefix(MAPPED))

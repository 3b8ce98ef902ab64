"""A check that schemathesis makes of every answer, beside its own ones (F10).

It runs in an environment of its own, as the hooks of its command line.
"""

from __future__ import annotations

from typing import Any

import schemathesis

EXPLAINED = {"deadline-over": 504, "saga-lost": 503, "not-now": 503}
"""Problems of a 5xx that are right: the request came too late, or asks for a saga that was lost."""
URN = "urn:saga-stage:problem:"


def explained_server_error(_ctx: Any, response: Any, _case: Any) -> None:
    """A 5xx is one of those that say what is not so; every error is a problem with an outcome."""
    if response.status_code < 400:
        return
    assert response.headers["content-type"][0].startswith("application/problem+json")
    problem = response.json()
    assert problem["outcome"] and problem["status"] == response.status_code
    if response.status_code >= 500:
        assert EXPLAINED.get(problem["type"].removeprefix(URN)) == response.status_code, problem


schemathesis.check(explained_server_error)

"""Settings from the environment, which others use as well.

CI servers set STAGE_NAME, deployments STAGE_ENV, and Kubernetes a dozen variables for a service
that is named stage. So a variable that is in no setting stops nothing: it is listed as ignored.
A variable that is nearly the name of a setting is a slip of the operator, and a problem.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping

from stage.config.given import Given, from_entries
from stage.config.settings import OTHER_VARIABLES, PREFIX, SETTINGS

NEAR = 0.75
"""How alike (difflib's ratio, without the prefix) a slip and the name that was meant are at least.
`PROT` and `PORT` are at 0.75, `HOSTNAME` and `HOST` at 0.67."""

# Kubernetes sets these for every service whose name begins with "stage".
_SERVICE_LINK = re.compile(r"STAGE_(?:\w+_)?(?:SERVICE_(?:HOST|PORT)|PORT_\d+_(?:TCP|UDP|SCTP))\w*")
_SERVICE_LINK_PORT = re.compile(r"STAGE_(?:\w+_)?PORT")
_NESTED = re.compile(rf"{PREFIX}(?P<peers>UPSTREAM|DOWNSTREAM|EXTERNAL|OPERATOR|STEP)S?__\w*")
"""As other programs write it. It must not be ignored: it may name a credential."""
_SERVICE_LINK_URL = re.compile(r"(?:tcp|udp|sctp)://\S+")


def from_environment(
    environ: Mapping[str, str], problems: list[str], ignored: list[str]
) -> Iterator[Given]:
    """The settings among the variables. Foreign ones are listed in `ignored`."""
    known = {setting.variable: setting for setting in SETTINGS}
    for variable in sorted(name for name in environ if name.startswith(PREFIX)):
        origin, value = f"environment {variable}", environ[variable]
        setting = known.get(variable)
        if variable in OTHER_VARIABLES or (setting is not None and not value):
            continue  # set to nothing, as compose files do for what is left out
        if _is_service_link(variable, value):
            ignored.append(
                f"{origin}: is ignored, as Kubernetes sets it for a service (to be rid of it, set"
                " enableServiceLinks: false in the pod)"
            )
        elif (nested := _NESTED.fullmatch(variable)) is not None:
            peers = PREFIX + nested["peers"]
            problems.append(
                f"{origin}: is not known: keys of a peer stand in {peers}, as"
                f" {peers}=NAME=URL,NAME.KEY=VALUE"
            )
        elif setting is None:
            meant = _nearest(variable, [*known, *OTHER_VARIABLES])
            if meant is None:
                ignored.append(f"{origin}: is ignored, as no setting has this name")
            else:
                problems.append(f"{origin}: is not known: did you mean {meant}?")
        elif setting.peers:
            entries = [entry.strip() for entry in value.split(",") if entry.strip()]
            yield from from_entries(setting, entries, origin, problems)
        else:
            yield Given(setting, value, origin)


def _is_service_link(variable: str, value: str) -> bool:
    if _SERVICE_LINK.fullmatch(variable):
        return True
    return bool(_SERVICE_LINK_PORT.fullmatch(variable) and _SERVICE_LINK_URL.fullmatch(value))


def _nearest(variable: str, known: list[str]) -> str | None:
    names = [name.removeprefix(PREFIX) for name in known]
    near = difflib.get_close_matches(variable.removeprefix(PREFIX), names, n=1, cutoff=NEAR)
    return PREFIX + near[0] if near else None

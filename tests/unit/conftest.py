"""The examples of Hypothesis are judged by what they show, and not by how fast the machine is."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

# The profile of `make mutation` holds beneath it. So does that of Hypothesis for a build server,
# where CI is set: there the examples are the same in each run, and elsewhere they are new ones.
settings.register_profile(
    "unit", settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("unit")

"""Settings of all tests: property tests repeat exactly in CI and are never judged by the clock."""

import os

from hypothesis import HealthCheck, settings

NO_CLOCK = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

settings.register_profile("local", parent=NO_CLOCK)
settings.register_profile("ci", parent=NO_CLOCK, derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "local")

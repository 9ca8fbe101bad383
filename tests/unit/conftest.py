"""Settings of the pure tests: no root, no other process; only pytest, hypothesis and pyelftools are installed."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

settings.register_profile(
    "corepipe",
    deadline=None,
    derandomize=os.environ.get("CI", "") not in ("", "0", "false"),
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.load_profile("corepipe")

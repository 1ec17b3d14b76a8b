"""What holds for every tier."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

# A property says nothing about time, and a loaded machine would make it fail; a failure prints how to repeat it.
settings.register_profile("bema", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True)
settings.load_profile("bema")

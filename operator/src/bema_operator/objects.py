"""Kubernetes objects as they come, and where they are: two names for types, for every other module."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Object = Mapping[str, Any]
"""As its JSON says."""

Place = tuple[str, str]
"""Namespace and name of an object."""

"""What the Kubernetes API may answer instead of doing what was asked.

KubeError
├── Gone            the object that was asked for does not exist, and the API server says so by name
├── Refused         the content or the right is wrong; trying again soon cannot help
├── Conflict        another object or another version is in the way
├── Expired         the place in a list or a watch is forgotten: begin anew
├── Unavailable     nobody answered, or not now
└── NoAccess        nothing was asked: what a kubeconfig presents cannot be used
"""

from __future__ import annotations

from bema.contract import errors


class KubeError(errors.BemaError):
    """The API server did not do what was asked. `code` is the HTTP status of its answer, 0 without one."""

    def __init__(self, message: str, code: int = 0) -> None:
        super().__init__(message)
        self.code = code


class Gone(KubeError):
    """The object does not exist. Positive evidence: the kind is served, and the answer names the object."""


class Refused(KubeError):
    """The content or the right is wrong."""


class Conflict(KubeError):
    """Another object or another version is in the way."""


class Expired(KubeError):
    """The API server has forgotten the place in a list or a watch."""

    CODE = 410


class Unavailable(KubeError):
    """Nobody answered, or not now."""


class NoAccess(KubeError):
    """What a kubeconfig, or a pod, has to present cannot be used."""

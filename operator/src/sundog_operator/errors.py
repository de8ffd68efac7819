"""Errors.

SundogError
├── SpecError              the user must edit the resource; Stalled, no retry
│   └── Invalid            the API server refuses the object itself
├── InstallationError      the administrator must edit the installation's file; the process ends
└── DependencyError        the world failed; exponential back-off with jitter
    ├── Conflict           re-read and retry soon
    │   └── AlreadyExists
    ├── NotFound           the object is gone
    ├── NotServed          the API server has no such kind
    ├── Forbidden          the API server does not let us
    ├── RayUnavailable     no answer from Serve's REST API: unknown, not "no applications"
    └── ServeRefused       Serve answered 4xx to our document

The messages name the object, what was found and what was expected. They hold no secret.
"""

from collections.abc import Sequence


class SundogError(Exception):
    """Base of all errors the operator raises on purpose."""


class SpecError(SundogError):
    """The resource cannot be acted on until its author edits it."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class Invalid(SpecError):
    """The API server refused the object: HTTP 422. `causes` holds one line per violation."""

    def __init__(self, subject: str, causes: Sequence[str]) -> None:
        super().__init__("Invalid", f"{subject} is invalid: {'; '.join(causes)}")
        self.causes = tuple(causes)


class InstallationError(SundogError):
    """The file of the installation cannot be used."""


class DependencyError(SundogError):
    """Something outside the process failed or did not answer."""


class Conflict(DependencyError):
    """The object changed since it was read."""


class AlreadyExists(Conflict):
    """Create found an object of that name."""


class NotFound(DependencyError):
    """The object does not exist."""


class NotServed(DependencyError):
    """The API server does not know the kind of the object."""


class Forbidden(DependencyError):
    """The API server refuses the request: for want of a right, or by admission."""


class RayUnavailable(DependencyError):
    """Serve's REST API did not answer."""


class ServeRefused(DependencyError):
    """Serve's REST API rejected the document."""

"""Errors.

SundogError
├── SpecError              the user must edit the resource; Stalled, no retry
│   └── Invalid            the API server rejects the object itself
├── InstallationError      the administrator must edit the installation's file; the process ends
└── DependencyError        something outside the process failed; exponential back-off with jitter
    ├── Conflict           the object has changed; read it again and retry soon
    │   └── AlreadyExists
    ├── NotFound           the object does not exist
    ├── NotServed          the API server does not serve this kind
    ├── RequestRefused     the API server answers that it does not do what is asked
    │   └── Forbidden      a permission is missing, or admission rejects the object
    ├── RayUnavailable     Serve's REST API does not answer: its state is unknown, not empty
    └── ServeRefused       Serve answered 4xx to our document

Messages name the object, what was found and what was expected. They contain no secrets.
"""

from collections.abc import Sequence


class SundogError(Exception):
    """Base of all errors that the operator raises on purpose."""


class SpecError(SundogError):
    """The operator cannot act on the resource until its author edits it."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class Invalid(SpecError):
    """The API server rejected the object with HTTP 422. `causes` has one line per violation."""

    def __init__(self, subject: str, causes: Sequence[str]) -> None:
        super().__init__("Invalid", f"{subject} is invalid: {'; '.join(causes)}")
        self.causes = tuple(causes)


class InstallationError(SundogError):
    """The installation's file is unusable."""


class DependencyError(SundogError):
    """Something outside the process failed or did not answer."""


class Conflict(DependencyError):
    """The object has changed since it was read."""


class AlreadyExists(Conflict):
    """A create found an object of that name."""


class NotFound(DependencyError):
    """The object does not exist."""


class NotServed(DependencyError):
    """The API server does not serve the kind of the object."""


class RequestRefused(DependencyError):
    """The API server answered with an error that concerns this request alone."""


class Forbidden(RequestRefused):
    """The API server denies the request because a permission is missing or admission rejects it."""


class RayUnavailable(DependencyError):
    """Serve's REST API does not answer."""


class ServeRefused(DependencyError):
    """Serve's REST API rejected the document."""

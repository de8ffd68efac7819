"""Errors.

EdgeError
├── DocumentError          the split document is refused as a whole; the previous one stays in force
├── SecretError            one Secret is missing or broken; the feature that needs it is off
├── SettingsError          an invalid command line or state directory
├── HaproxyUnavailable     HAProxy does not answer on its master socket
│   └── HaproxySilent      HAProxy accepted the connection and did not answer in time
├── HaproxyRefused         HAProxy answered a command with an error
├── ApiUnavailable         the Kubernetes API server gave no usable answer; the last known state stays in force
├── StoreUnavailable       the feedback store did not answer, or did not accept a write
└── ServeUnavailable       Serve's REST API gave no usable answer: unknown, not "no replicas"

Messages are one line and hold no secret.
"""


class EdgeError(Exception):
    """Base of the errors that the edge raises on purpose."""


class DocumentError(EdgeError):
    """The split document is invalid until its author changes it."""


class SecretError(EdgeError):
    """A Secret cannot be used. The message names the Secret and its file, and shows no content."""


class SettingsError(EdgeError):
    """The edge cannot start with these settings."""


class HaproxyUnavailable(EdgeError):
    """HAProxy does not answer on its master socket."""


class HaproxySilent(HaproxyUnavailable):
    """HAProxy's master socket accepts a connection, and no answer comes in time."""


class HaproxyRefused(EdgeError):
    """HAProxy rejected a command or a configuration."""


class ServeUnavailable(EdgeError):
    """Serve's REST API did not answer, or not in the documented form."""


class ApiUnavailable(EdgeError):
    """The Kubernetes API server did not answer, or not in the documented form."""


class StoreUnavailable(EdgeError):
    """The feedback store does not answer, or refuses."""

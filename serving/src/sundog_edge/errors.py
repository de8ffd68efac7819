"""Errors.

EdgeError
├── DocumentError          the split document is refused as a whole; the previous one stays in force
├── SecretError            one Secret is missing or broken; what it is for is off
├── SettingsError          a command line or state directory that cannot work
├── HaproxyUnavailable     HAProxy does not answer on its master socket
│   └── HaproxySilent      it took the connection and said nothing in time
├── HaproxyRefused         HAProxy answered a command with an error
├── ApiUnavailable         the Kubernetes API server gave no usable answer; what is known stays in force
├── StoreUnavailable       the store of feedback did not answer, or did not take what was written
└── ServeUnavailable       Serve's REST API gave no usable answer: unknown, not "no replicas"

The messages are one line and hold no secret.
"""


class EdgeError(Exception):
    """Base of all errors the edge raises on purpose."""


class DocumentError(EdgeError):
    """The split document cannot be applied until its author changes it."""


class SecretError(EdgeError):
    """A Secret cannot be used; the message names it and the file in it, and nothing of what it holds."""


class SettingsError(EdgeError):
    """The edge cannot start as it was asked to."""


class HaproxyUnavailable(EdgeError):
    """Nothing answers on HAProxy's master socket."""


class HaproxySilent(HaproxyUnavailable):
    """HAProxy's master socket takes a connection, and no answer comes in time."""


class HaproxyRefused(EdgeError):
    """HAProxy rejected a command or a configuration."""


class ServeUnavailable(EdgeError):
    """Serve's REST API did not answer, or not with what it documents."""


class ApiUnavailable(EdgeError):
    """The Kubernetes API server did not answer, or not with what it documents."""


class StoreUnavailable(EdgeError):
    """The store of feedback cannot be reached or refuses."""

"""The application for plain Ray Serve: raw ASGI, the fastest that Serve offers."""

from ray import serve

from measuring.raw_asgi import Mlp


@serve.deployment(name="Mlp")
@serve.ingress(Mlp())
class _Mlp:
    pass


def mlp(args: dict[str, object]) -> serve.Application:
    """Build the application."""
    del args
    return _Mlp.bind()

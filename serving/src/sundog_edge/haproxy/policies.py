"""The maps of admission: who may call, how often, and how many may wait. Pure.

- `policies`: service → `policy_value`, for services that ask for anything.
- `keys` and `tokens`: as `credentials.Credentials` has them.
- `queues`: slot → how many requests may wait in it.
"""

from collections.abc import Mapping

from sundog_edge.security.credentials import CallerCredentials
from sundog_edge.split.document import Service, SplitDocument


def build_policy_maps(
    document: SplitDocument, slots: Mapping[str, str], credentials: CallerCredentials, twins: tuple[str, ...] = ("",)
) -> dict[str, dict[str, str]]:
    """The entries of all of them; `slots` has the slot of every application, `twins` what its backends' names end with."""
    policies = {service.name: render_policy(service) for service in document.services}
    return {
        "queues": {
            slots[application] + twin: str(service.queue.share(weight))
            for service in document.services
            if service.queue
            for application, weight in _weights(service).items()
            for twin in twins
        },
        "keys": dict(credentials.keys),
        "tokens": dict(credentials.tokens),
        "policies": {name: value for name, value in policies.items() if value.strip("|")},
    }


def _weights(service: Service) -> dict[str, float]:
    """Percent of the traffic by application: of two arms that share one, both together wait in its slot."""
    found: dict[str, float] = {}
    for arm in service.arms:
        found[arm.application] = found.get(arm.application, 0.0) + arm.weight
    return found


def render_policy(service: Service) -> str:
    """`API keys|token keys|issuer|audience|requests of a client|in seconds|retry after|requests of all|in seconds|retry after|queue`, where
    the first two are Secrets and the last is 0 for a service without a queue; nothing but separators where it asks for nothing.
    """
    jwt = service.auth.jwt
    fields = [service.auth.apiKeys, *((jwt.jwks, jwt.issuer, jwt.audience) if jwt else ("", "", ""))]
    for rate in (service.rateLimit.perClient, service.rateLimit.total):
        fields += [str(rate.requests), str(rate.seconds), str(rate.retry_after)] if rate else ["", "", ""]
    fields.append("0" if service.queue and not service.queue.maxRequests else "")
    return "|".join(fields)

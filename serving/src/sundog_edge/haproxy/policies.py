"""The maps of admission: who may call, how often, and how many requests may wait. Pure.

- `policies`: service → `render_policy`, for services with any policy.
- `keys` and `tokens`: see `credentials.CallerCredentials`.
- `queues`: slot → number of requests that may wait in it.
"""

from collections.abc import Mapping

from sundog_edge.security.credentials import CallerCredentials
from sundog_edge.split.document import Service, SplitDocument


def build_policy_maps(
    document: SplitDocument, slots: Mapping[str, str], credentials: CallerCredentials, twins: tuple[str, ...] = ("",)
) -> dict[str, dict[str, str]]:
    """Return the entries of all these maps. `slots`: slot by application; `twins`: suffixes of its backends' names."""
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
    """Return percent of the traffic by application: two arms of one application wait in the same slot."""
    weights: dict[str, float] = {}
    for arm in service.arms:
        weights[arm.application] = weights.get(arm.application, 0.0) + arm.weight
    return weights


def render_policy(service: Service) -> str:
    """Return a service's value in `policies`; only separators for a service without policies.

    `API keys|token keys|issuer|audience|requests of a client|in seconds|retry after|requests of all|in seconds|retry after|queue`. The
    first two are Secrets, and the last is 0 for a service without a queue.
    """
    jwt = service.auth.jwt
    fields = [service.auth.apiKeys, *((jwt.jwks, jwt.issuer, jwt.audience) if jwt else ("", "", ""))]
    for rate in (service.rateLimit.perClient, service.rateLimit.total):
        fields += [str(rate.requests), str(rate.seconds), str(rate.retry_after)] if rate else ["", "", ""]
    fields.append("0" if service.queue and not service.queue.maxRequests else "")
    return "|".join(fields)

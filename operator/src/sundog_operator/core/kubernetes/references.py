"""Objects of the namespace that a revision's pods need: put them into a pod, and find the missing ones."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from sundog_operator.api import EnvVar, ModelDeploymentSpec
from sundog_operator.api.reasons import Cause, DeploymentReason

ReferenceKind = Literal["Secret", "ConfigMap", "ServiceAccount", "PersistentVolumeClaim"]
Json = dict[str, Any]
KeysByObject = Mapping[tuple[ReferenceKind, str], frozenset[str] | None]
"""Keys by kind and name of an object; None for a missing object. ServiceAccounts and claims have no keys."""

PVC_ROOT: Final = "/mnt/pvc"
"""The model server expects the volume of a claim in a directory with the claim's name under this one."""
DOCKER_CONFIG: Final = "/var/run/secrets/sundog/docker"
ADMINISTRATOR_VARIABLES: Final = (
    "SUNDOG_CACHE_MAX_BYTES",
    "SUNDOG_FAST_PATH",
    "SUNDOG_GRPC_PEERS",
    "SUNDOG_LOAD_MAX_SECONDS",
    "SUNDOG_MODEL_MAX_BYTES",
    "SUNDOG_SOURCE_ALLOW_HOSTS",
    "SUNDOG_SOURCE_MAX_SECONDS",
    "SUNDOG_SOURCE_MIN_BYTES_PER_SECOND",
)
"""Variables of the model server that only `installation.ray.pods.env` sets. An empty one counts as not set."""
_PVC: Final = "pvc://"
_OCI: Final = "oci://"
_CLAIM: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*")
_REASONS: Final[Mapping[ReferenceKind, str]] = {
    "Secret": DeploymentReason.SECRET_NOT_FOUND,
    "ConfigMap": DeploymentReason.CONFIG_MAP_NOT_FOUND,
    "ServiceAccount": DeploymentReason.SERVICE_ACCOUNT_NOT_FOUND,
    "PersistentVolumeClaim": DeploymentReason.CLAIM_NOT_FOUND,
}
_INCOMPLETE: Final[Mapping[ReferenceKind, str]] = {
    "Secret": DeploymentReason.SECRET_INCOMPLETE,
    "ConfigMap": DeploymentReason.CONFIG_MAP_INCOMPLETE,
}


@dataclass(frozen=True, slots=True)
class ObjectReference:
    """A field of a spec that names an object. An empty `key` means that the field needs no particular key."""

    field: str
    kind: ReferenceKind
    name: str
    key: str = ""


@dataclass(frozen=True, slots=True)
class PodMounts:
    """Volumes of a pod, their mounts in its container, and the variables with their paths."""

    volumes: tuple[Json, ...] = ()
    mounts: tuple[Json, ...] = ()
    env: tuple[Json, ...] = ()


def parse_claim(uri: str) -> str:
    """Return the PersistentVolumeClaim in a model's URI; empty where it names none, or no valid name."""
    claim = uri.removeprefix(_PVC).partition("/")[0] if uri.startswith(_PVC) else ""
    return claim if _CLAIM.fullmatch(claim) else ""


def find_references(spec: ModelDeploymentSpec) -> tuple[ObjectReference, ...]:
    """Return the objects without which the pods cannot start."""
    return tuple(_references(spec))


def _references(spec: ModelDeploymentSpec) -> Iterator[ObjectReference]:
    credentials = spec.model.credentials
    if credentials.secret_name:
        yield ObjectReference("spec.model.credentials.secretName", "Secret", credentials.secret_name)
    if credentials.service_account_name:
        yield ObjectReference(
            "spec.model.credentials.serviceAccountName", "ServiceAccount", credentials.service_account_name
        )
    if claim := parse_claim(spec.model.uri):
        yield ObjectReference("spec.model.uri", "PersistentVolumeClaim", claim)
    for index, variable in enumerate(spec.runtime.env):
        source = variable.value_from
        if source is None:
            continue
        place = f"spec.runtime.env[{index}].valueFrom"
        if (secret := source.secret_key_ref) is not None and not secret.optional:
            yield ObjectReference(f"{place}.secretKeyRef", "Secret", secret.name, secret.key)
        if (config := source.config_map_key_ref) is not None and not config.optional:
            yield ObjectReference(f"{place}.configMapKeyRef", "ConfigMap", config.name, config.key)


def find_missing_references(needed: Sequence[ObjectReference], found: KeysByObject, namespace: str) -> Cause | None:
    """Return which objects and keys are missing; None where none is.

    An object that is not in `found` was not looked up, and counts as present.
    """
    missing = [(each, reason) for each in needed if (reason := _find_reason(each, found))]
    if not missing:
        return None
    messages = (
        f"{each.field}: {each.kind} {namespace}/{each.name} "
        + ("does not exist" if reason == _REASONS[each.kind] else f"has no key {each.key}")
        for each, reason in missing
    )
    return Cause(missing[0][1], "; ".join(messages))


def _find_reason(reference: ObjectReference, found: KeysByObject) -> str:
    keys = found.get((reference.kind, reference.name), frozenset({reference.key}))
    if keys is None:
        return _REASONS[reference.kind]
    return _INCOMPLETE.get(reference.kind, "") if reference.key and reference.key not in keys else ""


def make_env(spec: ModelDeploymentSpec) -> list[Json]:
    """Return the variables of `runtime.env` in the form of a container's `env`.

    Beside a Secret, whose keys are variables too, the administrator's are empty. So no key replaces one that the administrator did not set.
    """
    reserved = ADMINISTRATOR_VARIABLES if spec.model.credentials.secret_name else ()
    return [
        *({"name": name, "value": ""} for name in reserved),
        *(_make_variable(variable) for variable in spec.runtime.env),
    ]


def _make_variable(variable: EnvVar) -> Json:
    if variable.value_from is not None:
        return {"name": variable.name, "valueFrom": variable.value_from.to_json()}
    return {"name": variable.name, "value": variable.value or ""}


def make_env_from(spec: ModelDeploymentSpec) -> list[Json]:
    """Return the `envFrom` with the credentials of the model's source. The Secret's keys are the variables of the source's client."""
    name = spec.model.credentials.secret_name
    return [{"secretRef": {"name": name}}] if name else []


def make_mounts(spec: ModelDeploymentSpec) -> PodMounts:
    """Return the read-only mount of a `pvc://` model's claim, or of the credentials file for an `oci://` registry."""
    if claim := parse_claim(spec.model.uri):
        volume = {"name": "sundog-model", "persistentVolumeClaim": {"claimName": claim, "readOnly": True}}
        mount = {"name": "sundog-model", "mountPath": f"{PVC_ROOT}/{claim}", "readOnly": True}
        return PodMounts((volume,), (mount,), ({"name": "SUNDOG_PVC_ROOT", "value": PVC_ROOT},))
    secret = spec.model.credentials.secret_name
    if secret and spec.model.uri.startswith(_OCI):
        items = [{"key": ".dockerconfigjson", "path": "config.json"}]
        volume = {"name": "sundog-registry", "secret": {"secretName": secret, "items": items, "optional": True}}
        mount = {"name": "sundog-registry", "mountPath": DOCKER_CONFIG, "readOnly": True}
        return PodMounts((volume,), (mount,), ({"name": "DOCKER_CONFIG", "value": DOCKER_CONFIG},))
    return PodMounts()

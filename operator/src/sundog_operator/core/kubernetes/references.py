"""Objects of the own namespace that a revision's pods need: how they enter a pod, and what is missing of them."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from sundog_operator.api import EnvVar, ModelDeploymentSpec

ReferenceKind = Literal["Secret", "ConfigMap", "ServiceAccount", "PersistentVolumeClaim"]
Json = dict[str, Any]
KeysByObject = Mapping[tuple[ReferenceKind, str], frozenset[str] | None]
"""The keys of each object, by kind and name; None where there is no such object. What has no keys has none."""

PVC_ROOT: Final = "/mnt/pvc"
"""Where the model server looks for the volume of a claim, below it by the claim's name."""
DOCKER_CONFIG: Final = "/var/run/secrets/sundog/docker"
_PVC: Final = "pvc://"
_OCI: Final = "oci://"
_CLAIM: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*")
_REASONS: Final[Mapping[ReferenceKind, str]] = {
    "Secret": "SecretNotFound",
    "ConfigMap": "ConfigMapNotFound",
    "ServiceAccount": "ServiceAccountNotFound",
    "PersistentVolumeClaim": "ClaimNotFound",
}
_INCOMPLETE: Final[Mapping[ReferenceKind, str]] = {"Secret": "SecretIncomplete", "ConfigMap": "ConfigMapIncomplete"}


@dataclass(frozen=True, slots=True)
class ObjectReference:
    """A field of a spec that names an object. Without a key any will do."""

    field: str
    kind: ReferenceKind
    name: str
    key: str = ""


@dataclass(frozen=True, slots=True)
class PodMounts:
    """Volumes of a pod, where its container has them, and the variables that tell of them."""

    volumes: tuple[Json, ...] = ()
    mounts: tuple[Json, ...] = ()
    env: tuple[Json, ...] = ()


def parse_claim(uri: str) -> str:
    """The claim that a model's URI names; empty where it names none, or one that cannot be."""
    claim = uri.removeprefix(_PVC).partition("/")[0] if uri.startswith(_PVC) else ""
    return claim if _CLAIM.fullmatch(claim) else ""


def find_references(spec: ModelDeploymentSpec) -> tuple[ObjectReference, ...]:
    """What the pods cannot start without."""
    return tuple(_needs(spec))


def _needs(spec: ModelDeploymentSpec) -> Iterator[ObjectReference]:
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


def find_missing_references(
    needed: Sequence[ObjectReference], found: KeysByObject, namespace: str
) -> tuple[str, str] | None:
    """(reason, message) of what is missing; None while nothing is. What was not looked for counts as there."""
    lacking = [(need, reason) for need in needed if (reason := _lack(need, found))]
    if not lacking:
        return None
    told = (
        f"{need.field}: {need.kind} {namespace}/{need.name} "
        + ("does not exist" if reason == _REASONS[need.kind] else f"has no key {need.key}")
        for need, reason in lacking
    )
    return lacking[0][1], "; ".join(told)


def _lack(need: ObjectReference, found: KeysByObject) -> str:
    keys = found.get((need.kind, need.name), frozenset({need.key}))
    if keys is None:
        return _REASONS[need.kind]
    return _INCOMPLETE.get(need.kind, "") if need.key and need.key not in keys else ""


def make_env(spec: ModelDeploymentSpec) -> list[Json]:
    """The variables of `runtime.env`, as a container has them."""
    return [_variable(variable) for variable in spec.runtime.env]


def _variable(variable: EnvVar) -> Json:
    if variable.value_from is not None:
        return {"name": variable.name, "valueFrom": variable.value_from.to_json()}
    return {"name": variable.name, "value": variable.value or ""}


def make_env_from(spec: ModelDeploymentSpec) -> list[Json]:
    """The Secret with the credentials of the model's source, whose keys are the variables that the source's client reads."""
    name = spec.model.credentials.secret_name
    return [{"secretRef": {"name": name}}] if name else []


def make_mounts(spec: ModelDeploymentSpec) -> PodMounts:
    """The claim of a `pvc://` model, read-only, and a registry's credentials as the file that its client reads."""
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

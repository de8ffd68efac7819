"""The admission of the API server, as its documentation tells it: prune, default, schema, list types, then CEL with oldSelf."""

import copy
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from cel_expr_python import cel
from cel_expr_python.ext.ext_strings import ExtStrings

from real_kubernetes.api import Api

CRDS = Path(__file__).parents[3] / "crds"
RESERVED = re.compile(
    "true|false|null|in|as|break|const|continue|else|for|function|if|import|let|loop|package|namespace|return|var|void|while"
)


@dataclass(frozen=True, order=True)
class Denial:
    """`phase` is shape (OpenAPI) or rule; `rule` is the schema path and text of the CEL rule."""

    path: str
    message: str
    phase: str = "shape"
    rule: tuple[str, str] | None = field(default=None, compare=False)


@cache
def environment() -> cel.Env:
    """CEL with the functions of Kubernetes' libraries that our rules use. Values are untyped, as in an object."""
    functions = [
        cel.FunctionDecl(
            name, [cel.Overload(f"list_{name}", result, [cel.Type.List(cel.Type.DYN)], is_member=True, impl=impl)]
        )
        for name, result, impl in (
            ("isSorted", cel.Type.BOOL, lambda items: list(items) == sorted(items)),
            ("sum", cel.Type.INT, lambda items: sum(items)),
        )
    ]
    overload = cel.Overload(
        "string_format", cel.Type.STRING, [cel.Type.STRING, cel.Type.List(cel.Type.DYN)], is_member=True, impl=_format
    )
    functions.append(cel.FunctionDecl("format", [overload]))
    # Networks are texts here, as all values of ours.
    network = cel.Overload("cidr_string", cel.Type.STRING, [cel.Type.STRING], impl=lambda text: text)
    masked = cel.Overload("cidr_masked", cel.Type.STRING, [cel.Type.STRING], is_member=True, impl=_masked)
    functions += [cel.FunctionDecl("cidr", [network]), cel.FunctionDecl("masked", [masked])]
    return cel.NewEnv(
        variables={"self": cel.Type.DYN, "oldSelf": cel.Type.DYN},
        extensions=[ExtStrings(0), cel.CelExtension("kubernetes", functions)],
    )


def _masked(network: str) -> str:
    return str(ip_network(network, strict=False))


def _format(text: str, values: Any) -> str:
    return text % tuple(values)


@cache
def compiled(expression: str) -> cel.Expression:
    return environment().compile(expression)


def evaluate(expression: str, new: Any, old: Any = None) -> Any:
    data = {"self": escaped(new)} | ({} if old is None else {"oldSelf": escaped(old)})
    return compiled(expression).eval(data=data).plain_value()


def escaped(value: Any) -> Any:
    if isinstance(value, dict):
        return {f"__{key}__" if RESERVED.fullmatch(key) else key: escaped(item) for key, item in value.items()}
    return [escaped(item) for item in value] if isinstance(value, list) else value


def sent(value: Any) -> Any:
    """What kubectl sends: it writes 3.0 as 3."""
    if isinstance(value, dict):
        return {key: sent(item) for key, item in value.items()}
    if isinstance(value, list):
        return [sent(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def prune(value: Any, schema: dict[str, Any]) -> Any:
    """Without unknown fields, and without nulls where the schema names the field or says what a map holds."""
    if isinstance(value, dict) and "additionalProperties" in schema:
        return {key: prune(item, schema["additionalProperties"]) for key, item in value.items() if item is not None}
    if isinstance(value, dict) and "x-kubernetes-preserve-unknown-fields" not in schema:
        properties = schema.get("properties", {})
        known = {key: item for key, item in value.items() if key in properties and item is not None}
        return {key: prune(item, properties[key]) for key, item in known.items()}
    if isinstance(value, list) and "items" in schema:
        return [prune(item, schema["items"]) for item in value]
    return value


def default(value: Any, schema: dict[str, Any]) -> None:
    """Fill in place, outer defaults first, as the API server does."""
    if isinstance(value, dict) and "properties" in schema:
        for name, child in schema["properties"].items():
            if name not in value and "default" in child:
                value[name] = copy.deepcopy(child["default"])
            if name in value:
                default(value[name], child)
    elif isinstance(value, dict) and "additionalProperties" in schema:
        for item in value.values():
            default(item, schema["additionalProperties"])
    elif isinstance(value, list) and "items" in schema:
        for item in value:
            default(item, schema["items"])


def _pattern(validator: Any, pattern: str, instance: Any, schema: Any) -> Any:
    # RE2 knows no trailing newline before `$`.
    if validator.is_type(instance, "string") and not re.search(re.sub(r"\$$", r"\\Z", pattern), instance):
        yield jsonschema.ValidationError(f"{instance!r} does not match {pattern!r}")


OpenApi = jsonschema.validators.extend(jsonschema.Draft4Validator, {"pattern": _pattern})


def place(path: Any, schema: dict[str, Any]) -> str:
    """`spec.rollout.steps[0].weight`, `spec.runtime.podLabels[team]`."""
    text = ""
    for step in path:
        if "properties" in schema:
            text += f".{step}" if text else str(step)
            schema = schema["properties"][step]
        else:
            text += f"[{step}]"
            schema = schema["items"] if isinstance(step, int) else schema["additionalProperties"]
    return text


class Admission:
    """One kind's CRD."""

    def __init__(self, plural: str) -> None:
        self.text = (CRDS / f"{plural}.yaml").read_text(encoding="utf-8")
        self.crd = yaml.safe_load(self.text)
        self.version = self.crd["spec"]["versions"][0]
        self.schema: dict[str, Any] = self.version["schema"]["openAPIV3Schema"]
        self._validator = OpenApi(self.schema)

    def stored(self, obj: dict[str, Any]) -> dict[str, Any]:
        """What would be stored: pruned and defaulted; metadata is the API server's own."""
        pruned = prune(sent(obj), self.schema) | ({"metadata": obj["metadata"]} if "metadata" in obj else {})
        default(pruned, self.schema)
        return pruned

    def denials(self, obj: dict[str, Any], old: dict[str, Any] | None = None) -> list[Denial]:
        """Why the API server would refuse; empty where it takes the object."""
        stored = self.stored(obj)
        shape = [self._shape(error) for error in self._validator.iter_errors(stored)]
        if shape:
            return sorted(set(shape))
        before = None if old is None else self.stored(old)
        return sorted(self._walk(stored, self.schema, before, "", ""))

    def rules(self) -> list[tuple[str, str]]:
        """Schema path and text of every CEL rule."""
        found: list[tuple[str, str]] = []

        def visit(schema: dict[str, Any], path: str) -> None:
            found.extend((path, rule["rule"]) for rule in schema.get("x-kubernetes-validations", ()))
            for name, child in schema.get("properties", {}).items():
                visit(child, f"{path}.{name}" if path else name)
            for key, mark in (("items", "[]"), ("additionalProperties", "{}")):
                if key in schema:
                    visit(schema[key], path + mark)

        visit(self.schema, "")
        return found

    def _shape(self, error: jsonschema.ValidationError) -> Denial:
        path = place(error.absolute_path, self.schema)
        if error.validator == "required":
            missing = re.match(r"'(.*)' is a required", error.message)
            assert missing
            path = f"{path}.{missing[1]}" if path else missing[1]
        return Denial(path, "")

    def _walk(self, value: Any, schema: dict[str, Any], old: Any, path: str, where: str) -> list[Denial]:
        found = [
            denial
            for rule in schema.get("x-kubernetes-validations", ())
            if (denial := self._evaluate(rule, value, old, path, where)) is not None
        ]
        found += self._repeated(value, schema, path)
        if isinstance(value, dict):
            for name, item in value.items():
                before = old.get(name) if isinstance(old, dict) else None
                if name in schema.get("properties", {}):
                    inner = f"{path}.{name}" if path else name
                    found += self._walk(
                        item, schema["properties"][name], before, inner, f"{where}.{name}" if where else name
                    )
                elif "additionalProperties" in schema:
                    found += self._walk(item, schema["additionalProperties"], before, f"{path}[{name}]", where + "{}")
        elif isinstance(value, list) and "items" in schema:
            for index, item in enumerate(value):
                found += self._walk(item, schema["items"], None, f"{path}[{index}]", f"{where}[]")
        return found

    def _evaluate(self, rule: dict[str, Any], value: Any, old: Any, path: str, where: str) -> Denial | None:
        text = rule["rule"]
        if rule.get("optionalOldSelf"):
            text = text.replace("oldSelf.hasValue()", str(old is not None).lower())
        elif "oldSelf" in text and old is None:
            return None
        verdict = evaluate(text, value, old)
        assert isinstance(verdict, bool), f"{path}: {rule['rule']} gave {verdict!r}"
        if verdict:
            return None
        message = evaluate(rule["messageExpression"], value) if "messageExpression" in rule else rule["message"]
        assert isinstance(message, str), f"{path}: {rule['messageExpression']} gave {message!r}"
        return Denial((path + rule.get("fieldPath", "")).removeprefix("."), message, "rule", (where, rule["rule"]))

    def _repeated(self, value: Any, schema: dict[str, Any], path: str) -> list[Denial]:
        kind = schema.get("x-kubernetes-list-type")
        if kind not in ("map", "set"):
            return []
        (key,) = schema.get("x-kubernetes-list-map-keys", [""])
        keys = [item[key] if key else item for item in value]
        suffix = f".{key}" if key else ""
        return [
            Denial(f"{path}[{index}]{suffix}", f"{item} appears twice; expected it once", "rule")
            for index, item in enumerate(keys)
            if item in keys[:index]
        ]


class ServedAdmission(Admission):
    """The same questions to a real API server that has the CRD. Nothing is stored by them."""

    def __init__(self, plural: str, api: Api) -> None:
        super().__init__(plural)
        self._api = api
        self._path = f"/apis/{self.crd['spec']['group']}/{self.version['name']}/namespaces/vision/{plural}"

    def stored(self, obj: dict[str, Any]) -> dict[str, Any]:
        answer = self._send("POST", self._path, obj)
        assert answer["kind"] == obj["kind"], answer
        return answer

    def denials(self, obj: dict[str, Any], old: dict[str, Any] | None = None) -> list[Denial]:
        if old is None:
            return self._told(self._send("POST", self._path, obj))
        stored = self._api.send("POST", self._path, old)
        place = f"{self._path}/{stored['metadata']['name']}"
        try:
            version = {"resourceVersion": stored["metadata"]["resourceVersion"]}
            return self._told(self._send("PUT", place, obj | {"metadata": obj["metadata"] | version}))
        finally:
            self._api.send("DELETE", place)

    def _told(self, answer: dict[str, Any]) -> list[Denial]:
        """The causes of a refusal; none of an acceptance. Where the shape is bad its causes alone: not all rules are asked then."""
        if answer["kind"] != "Status":
            return []
        assert answer["reason"] == "Invalid", answer
        causes = [cause for cause in answer["details"]["causes"] if not _beside_the_point(cause)]
        shapes = {Denial(_bracketed(cause["field"], self.schema), "") for cause in causes if _is_shape(cause)}
        return sorted(shapes or {_by_rule(cause) for cause in causes})

    def _send(self, method: str, path: str, obj: dict[str, Any]) -> dict[str, Any]:
        placed = obj | {"metadata": obj["metadata"] | {"namespace": "vision"}}
        return self._api.send(method, path, sent(placed), dryRun="All")


def _bracketed(path: str, schema: dict[str, Any]) -> str:
    """A path with the keys of maps in brackets, as rules have it. The server writes them after a dot, whatever is in them."""
    head, dot, rest = path.partition(".")
    name, bracket, _ = head.partition("[")
    child = schema["properties"].get(name, {})
    child = child.get("items", {}) if bracket else child
    if dot and "additionalProperties" in child:
        return f"{head}[{rest}]"
    return f"{head}.{_bracketed(rest, child)}" if dot else head


def _beside_the_point(cause: dict[str, str]) -> bool:
    # The scale subresource reads its field once more, by a path with a dot before it.
    return "some validation rules were not checked" in cause["message"] or cause["field"].startswith(".")


def _is_shape(cause: dict[str, str]) -> bool:
    return cause["reason"] not in ("FieldValueInvalid", "FieldValueDuplicate") or " in body " in cause["message"]


def _by_rule(cause: dict[str, str]) -> Denial:
    path = "" if cause["field"] == "<nil>" else cause["field"]
    if cause["reason"] == "FieldValueDuplicate":
        repeated = json.loads(cause["message"].removeprefix("Duplicate value: "))
        key, value = next(iter(repeated.items())) if isinstance(repeated, dict) else ("", repeated)
        return Denial(f"{path}.{key}" if key else path, f"{value} appears twice; expected it once", "rule")
    # Texts are shown before the message, other values are not.
    message = re.sub(r'^Invalid value: ("(?:[^"\\]|\\.)*": )?', "", cause["message"])
    return Denial(path, message, "rule")


@pytest.fixture(scope="session")
def documented() -> dict[str, Admission]:
    return {"ModelDeployment": Admission("modeldeployments"), "Experiment": Admission("experiments")}


@pytest.fixture(scope="session", params=["documented", pytest.param("served", marks=pytest.mark.cluster)])
def admissions(request: pytest.FixtureRequest) -> Iterator[dict[str, Admission]]:
    """The API server's admission, as we read its documentation and as it is."""
    if request.param == "documented":
        yield request.getfixturevalue("documented")
        return
    cluster = request.getfixturevalue("api_with_crds")
    cluster.kubectl.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "vision"}})
    api = Api.connect(cluster.kubeconfig)
    yield {kind: ServedAdmission(f"{kind.lower()}s", api) for kind in ("ModelDeployment", "Experiment")}
    api.close()

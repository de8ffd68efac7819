"""The CRDs as files: generated, structural, bounded, and typed as the API server types them."""

import re
from collections.abc import Iterator
from typing import Any, ClassVar

import pytest
from cel_expr_python import cel
from cel_expr_python.ext.ext_strings import ExtStrings
from google.protobuf import descriptor_pb2, descriptor_pool, struct_pb2

from reference import api, crds

KINDS = ["ModelDeployment", "Experiment"]
VALUE_ONLY = {"anyOf", "allOf", "oneOf", "not"}
FORBIDDEN = {
    "$ref",
    "definitions",
    "dependencies",
    "patternProperties",
    "additionalItems",
    "id",
    "uniqueItems",
    "nullable",
    "deprecated",
}
INT_OR_STRING = [{"type": "integer"}, {"type": "string"}]

Schema = dict[str, Any]


def schemas(schema: Schema, path: str = "") -> Iterator[tuple[str, Schema]]:
    yield path, schema
    for name, child in schema.get("properties", {}).items():
        yield from schemas(child, f"{path}.{name}")
    for key, mark in (("items", "[]"), ("additionalProperties", "{}")):
        if key in schema:
            yield from schemas(schema[key], path + mark)


def at(schema: Schema, path: str) -> Schema:
    for name in path.strip(".").split("."):
        schema = schema["properties"][name]
    return schema


def test_the_files_are_what_the_types_say(documented: Any) -> None:
    assert dict(crds.render_crds()) == {f"{a.crd['spec']['names']['plural']}.yaml": a.text for a in documented.values()}


def test_the_reference_shows_what_a_change_does() -> None:
    fields, _, _ = api.render_page().partition("Further rules")
    rows = {line.split("`")[1]: line for line in fields.splitlines() if line.startswith("| `spec.")}
    assert "| **revision** |" in rows["spec.model.uri"]
    assert "| in place |" in rows["spec.runtime.userConfig"]
    assert "| in place |" in rows["spec.replicas"]
    assert "| **revision**, *cluster* |" in rows["spec.resources.gpu.count"]
    assert "| in place |" in rows["spec.autoscaling.maxReplicas"]
    assert "| in place, *cluster* |" in rows["spec.endpoint.gateway.name"]
    assert "| **revision**, *cluster* |" in rows["spec.resources.gpu.memory"]
    assert "| *later* |" in rows["spec.resources.gpu.topology.interconnect"]
    assert "In a cluster only: `pvc://`." in rows["spec.model.uri"]
    assert "Not supported yet: `tpu`." in rows["spec.resources.gpu.vendor"]


@pytest.mark.parametrize("kind", KINDS)
def test_size(documented: Any, kind: str) -> None:
    # Client-side apply keeps a copy in an annotation, of which there are at most 256 KiB.
    assert len(documented[kind].text.encode()) < 192 * 1024


@pytest.mark.parametrize("kind", KINDS)
def test_structural(documented: Any, kind: str) -> None:
    root = documented[kind].schema
    assert root["type"] == "object"
    for path, schema in schemas(root):
        assert not FORBIDDEN & set(schema), path
        if schema.get("x-kubernetes-int-or-string"):
            assert schema["anyOf"] == INT_OR_STRING, path
            assert "type" not in schema, path
            continue
        assert not VALUE_ONLY & set(schema), path
        assert schema["type"] in ("object", "array", "string", "integer", "number", "boolean"), path
        assert not {"properties", "additionalProperties"} <= set(schema), path
        assert schema.get("additionalProperties") is not False, path
        assert (schema["type"] == "array") == ("items" in schema), path
        if schema["type"] == "object" and "properties" not in schema and "additionalProperties" not in schema:
            # A choice that says all by its name has no fields.
            assert schema.get("x-kubernetes-preserve-unknown-fields") or path.endswith((".metadata", ".request")), path
        assert set(schema.get("required", ())) <= set(schema.get("properties", ())), path


@pytest.mark.parametrize("kind", KINDS)
def test_only_free_form_fields_of_a_spec_keep_what_nobody_knows(documented: Any, kind: str) -> None:
    spec = documented[kind].schema["properties"]["spec"]
    free = {path for path, schema in schemas(spec) if "x-kubernetes-preserve-unknown-fields" in schema}
    assert {path.rpartition(".")[2] for path in free} == {"config", "userConfig"}


@pytest.mark.parametrize("kind", KINDS)
def test_a_status_keeps_the_fields_of_a_newer_release(documented: Any, kind: str) -> None:
    for path, schema in schemas(documented[kind].schema["properties"]["status"]):
        if "properties" in schema:
            assert schema["x-kubernetes-preserve-unknown-fields"] is True, path


@pytest.mark.parametrize("kind", KINDS)
def test_everything_is_bounded(documented: Any, kind: str) -> None:
    for path, schema in schemas(documented[kind].schema):
        if schema.get("type") == "string" and path not in (".apiVersion", ".kind"):
            assert "maxLength" in schema or "enum" in schema, path
        if schema.get("type") == "array":
            assert "maxItems" in schema, path
        free = "x-kubernetes-preserve-unknown-fields" in schema and "properties" not in schema
        if "additionalProperties" in schema or free:
            assert "maxProperties" in schema, path


@pytest.mark.parametrize("kind", KINDS)
def test_list_types(documented: Any, kind: str) -> None:
    for path, schema in schemas(documented[kind].schema):
        if schema.get("type") != "array":
            continue
        items = schema["items"]
        if schema["x-kubernetes-list-type"] == "map":
            for key in schema["x-kubernetes-list-map-keys"]:
                assert items["properties"][key]["type"] == "string", path
                assert key in items["required"], path
        elif schema["x-kubernetes-list-type"] == "set":
            assert items["type"] == "string", path
        else:
            assert schema["x-kubernetes-list-type"] == "atomic", path


@pytest.mark.parametrize("kind", KINDS)
def test_patterns_are_read_alike_by_go_rust_and_python(documented: Any, kind: str) -> None:
    for path, schema in schemas(documented[kind].schema):
        pattern = schema.get("pattern", "^$")
        assert re.compile(pattern), path
        assert pattern.startswith("^"), path
        assert pattern.endswith("$"), path
        assert not re.search(r"\\[dwsbAZz]|\(\?", pattern), (
            f"{path}: {pattern} means different things in different engines"
        )


@pytest.mark.parametrize("kind", KINDS)
def test_rules_say_what_is_wrong(documented: Any, kind: str) -> None:
    for path, schema in schemas(documented[kind].schema):
        for rule in schema.get("x-kubernetes-validations", ()):
            assert ("message" in rule) != ("messageExpression" in rule), path
            assert "\n" not in rule.get("message", ""), path
            assert len(rule.get("message", "")) <= 2048, path
            if "fieldPath" in rule:
                assert at(schema, rule["fieldPath"]), path


@pytest.mark.parametrize("kind", KINDS)
def test_status_is_the_operators_alone(documented: Any, kind: str) -> None:
    status = documented[kind].schema["properties"]["status"]
    assert status["default"] == {"observedGeneration": -1}
    assert documented[kind].version["subresources"]["status"] == {}
    assert [path for path, schema in schemas(status) if "default" in schema and path] == []


@pytest.mark.parametrize("kind", KINDS)
def test_every_spec_field_is_described(documented: Any, kind: str) -> None:
    spec = documented[kind].schema["properties"]["spec"]
    named = [(path, schema) for path, schema in schemas(spec, "spec") if not path.endswith(("[]", "{}"))]
    assert [path for path, schema in named if "description" not in schema] == []


@pytest.mark.parametrize(
    ("kind", "plural", "short"),
    [("ModelDeployment", "modeldeployments", "mdep"), ("Experiment", "experiments", "mexp")],
)
def test_names(documented: Any, kind: str, plural: str, short: str) -> None:
    crd = documented[kind].crd
    assert crd["metadata"]["name"] == f"{plural}.serving.sundog.dev"
    assert crd["spec"]["names"] == {
        "kind": kind,
        "listKind": f"{kind}List",
        "plural": plural,
        "singular": kind.lower(),
        "shortNames": [short],
        "categories": ["sundog"],
    }
    assert crd["spec"]["scope"] == "Namespaced"
    assert [(version["name"], version["served"], version["storage"]) for version in crd["spec"]["versions"]] == [
        ("v1alpha1", True, True)
    ]


def test_columns_of_kubectl_get(documented: Any) -> None:
    columns = documented["ModelDeployment"].version["additionalPrinterColumns"]
    assert [column["name"].upper() for column in columns] == [
        "READY", "REASON", "STABLE", "CANDIDATE", "WEIGHT", "REPLICAS", "URL", "AGE", "MESSAGE",
    ]  # fmt: skip
    assert [column["name"] for column in columns if column.get("priority")] == ["URL"]


def test_an_experiment_shows_its_leader_and_the_quality_of_its_data(documented: Any) -> None:
    columns = {column["name"]: column for column in documented["Experiment"].version["additionalPrinterColumns"]}
    assert columns["Leader"]["jsonPath"] == ".status.verdict.leader"
    assert columns["Data Quality"]["jsonPath"] == '.status.conditions[?(@.type=="DataQuality")].status'
    assert not any(columns[name].get("priority") for name in ("Leader", "Data Quality"))


@pytest.mark.parametrize("kind", KINDS)
def test_paths_lead_to_fields(documented: Any, kind: str) -> None:
    version, schema = documented[kind].version, documented[kind].schema
    for column in version["additionalPrinterColumns"]:
        path = re.sub(r"\.conditions\[\?\(@\.type==\"\w+\"\)\]", "", column["jsonPath"])
        if path in (".status.status", ".status.reason", ".status.message"):
            assert (
                path.rpartition(".")[2]
                in schema["properties"]["status"]["properties"]["conditions"]["items"]["properties"]
            )
        elif path != ".metadata.creationTimestamp":
            assert at(schema, path)["type"] == column["type"], path
    for selectable in version["selectableFields"]:
        assert at(schema, selectable["jsonPath"])["type"] in ("string", "boolean", "integer")
    for name, path in version["subresources"].get("scale", {}).items():
        assert at(schema, path)["type"] == ("string" if name == "labelSelectorPath" else "integer")
    assert ("scale" in version["subresources"]) == (kind == "ModelDeployment")


class Types:
    """The schema as protobuf messages, so that CEL is checked against declared types as the API server does it."""

    SCALARS: ClassVar = {
        "string": "TYPE_STRING",
        "integer": "TYPE_INT64",
        "number": "TYPE_DOUBLE",
        "boolean": "TYPE_BOOL",
    }

    def __init__(self, root: Schema) -> None:
        self.file = descriptor_pb2.FileDescriptorProto(
            name="crd.proto", package="crd", syntax="proto3", dependency=["google/protobuf/struct.proto"]
        )
        self.types: dict[int, str] = {}
        self._message(root)
        metadata = self.file.message_type.add(name="Metadata")
        metadata.field.add(name="name", number=1, type="TYPE_STRING", label="LABEL_OPTIONAL")
        self.pool = descriptor_pool.DescriptorPool()
        self.pool.AddSerializedFile(struct_pb2.DESCRIPTOR.serialized_pb)
        self.pool.AddSerializedFile(self.file.SerializeToString())

    def of(self, schema: Schema) -> cel.Type:
        """The CEL type of `self` at a schema."""
        if schema.get("type") == "array":
            return cel.Type.List(self.of(schema["items"]))
        if "additionalProperties" in schema:
            return cel.Type.Map(cel.Type.STRING, self.of(schema["additionalProperties"]))
        if "properties" in schema:
            return cel.Type(f"crd.{self.types[id(schema)]}")
        plain = {
            "string": cel.Type.STRING,
            "integer": cel.Type.INT,
            "number": cel.Type.DOUBLE,
            "boolean": cel.Type.BOOL,
        }
        return plain.get(schema.get("type", ""), cel.Type.DYN)

    def _message(self, schema: Schema) -> str:
        name = f"M{len(self.types)}"
        self.types[id(schema)] = name
        message = self.file.message_type.add(name=name)
        for number, (field, child) in enumerate(schema["properties"].items(), start=1):
            cel_name = f"__{field}__" if field == "namespace" else field
            entry = message.field.add(name=cel_name, number=number, label="LABEL_OPTIONAL", json_name=f"f{number}")
            self._fill(message, entry, child, root=schema)
        return name

    def _fill(self, message: Any, entry: Any, schema: Schema, root: Schema) -> None:
        if schema.get("type") == "array":
            entry.label = "LABEL_REPEATED"
            schema = schema["items"]
        if schema.get("type") in self.SCALARS:
            entry.type = self.SCALARS[schema["type"]]
            return
        entry.type = "TYPE_MESSAGE"
        if schema is root["properties"].get("metadata"):
            entry.type_name = ".crd.Metadata"
        elif schema.get("properties"):
            entry.type_name = f".crd.{self._message(schema)}"
        elif "additionalProperties" in schema:
            entry.label = "LABEL_REPEATED"
            nested = message.nested_type.add(name=f"{entry.name[0].upper()}{entry.name[1:]}Entry")
            nested.options.map_entry = True
            nested.field.add(name="key", number=1, type="TYPE_STRING", label="LABEL_OPTIONAL")
            value = nested.field.add(
                name="value",
                number=2,
                label="LABEL_OPTIONAL",
                type=self.SCALARS[schema["additionalProperties"]["type"]],
            )
            assert value
            entry.type_name = f".crd.{message.name}.{nested.name}"
        else:
            entry.type_name = ".google.protobuf.Value"


@pytest.mark.parametrize("kind", KINDS)
def test_rules_are_well_typed(documented: Any, kind: str) -> None:
    """The API server refuses a CRD whose rules name an unknown field or compare unlike types."""
    root = documented[kind].schema
    types = Types(root)
    network = cel.Type.AbstractType("kubernetes.CIDR")
    functions = [
        cel.FunctionDecl(
            "isSorted",
            [cel.Overload("list_isSorted", cel.Type.BOOL, [cel.Type.List(cel.Type.INT)], is_member=True, impl=all)],
        ),
        cel.FunctionDecl(
            "sum", [cel.Overload("list_sum", cel.Type.INT, [cel.Type.List(cel.Type.INT)], is_member=True, impl=sum)]
        ),
        cel.FunctionDecl(
            "format",
            [
                cel.Overload(
                    "string_format",
                    cel.Type.STRING,
                    [cel.Type.STRING, cel.Type.List(cel.Type.DYN)],
                    is_member=True,
                    impl=str.__mod__,
                )
            ],
        ),
        cel.FunctionDecl("cidr", [cel.Overload("cidr_string", network, [cel.Type.STRING], impl=str)]),
        cel.FunctionDecl("masked", [cel.Overload("cidr_masked", network, [network], is_member=True, impl=str)]),
    ]
    checked = 0
    for path, schema in schemas(root):
        for rule in schema.get("x-kubernetes-validations", ()):
            type_ = types.of(schema)
            env = cel.NewEnv(
                types.pool,
                variables={"self": type_, "oldSelf": type_},
                extensions=[ExtStrings(0), cel.CelExtension("kubernetes", functions)],
            )
            # Here nothing knows of optional values.
            text = rule["rule"].replace("oldSelf.hasValue()", "true")
            assert env.compile(text).return_type() == cel.Type.BOOL, path
            if "messageExpression" in rule:
                assert env.compile(rule["messageExpression"]).return_type() == cel.Type.STRING, path
            checked += 1
    assert checked == len(documented[kind].rules())


@pytest.mark.parametrize("kind", KINDS)
def test_a_default_that_rules_read_is_whole(documented: Any, kind: str) -> None:
    """The API server checks a default by its rules before it fills in the defaults inside, and refuses the CRD on an error."""
    read_by_rules = [
        (path, schema)
        for path, schema in schemas(documented[kind].schema)
        if schema.get("x-kubernetes-validations") and "properties" in schema and "default" in schema
    ]
    assert [(path, left_out(schema["default"], schema)) for path, schema in read_by_rules] == [
        (path, []) for path, _ in read_by_rules
    ]


def left_out(default: Schema, schema: Schema) -> list[str]:
    """The fields below that have a default which this one lacks."""
    found = []
    for name, child in schema["properties"].items():
        if "default" not in child:
            continue
        if name not in default:
            found.append(name)
        elif "properties" in child:
            found += [f"{name}.{inner}" for inner in left_out(default[name], child)]
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_no_message_has_a_cost_without_bound(documented: Any, kind: str) -> None:
    """The API server gives the result of `string()` no greatest length, and refuses a CRD that puts such texts together."""
    messages = [
        rule["messageExpression"]
        for _, schema in schemas(documented[kind].schema)
        for rule in schema.get("x-kubernetes-validations", ())
        if "messageExpression" in rule
    ]
    assert messages
    assert [text for text in messages if "string(" in text] == []

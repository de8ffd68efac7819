"""YAML of people: what aliases expand, keys that are there twice, and what cannot be read."""

import pytest

from sundog_operator.api.schema import strict_yaml
from sundog_operator.api.schema.strict_yaml import InvalidYaml


def nested(levels: int) -> str:
    """Lists of aliases to the list before: few characters that write out to 9 to the power of `levels` values."""
    lines = ["a0: &a0 [x,x,x,x,x,x,x,x,x]"]
    lines += [f"a{level}: &a{level} [{','.join([f'*a{level - 1}'] * 9)}]" for level in range(1, levels)]
    return "\n".join(lines)


def wrong(text: str) -> str:
    with pytest.raises(InvalidYaml) as caught:
        list(strict_yaml.load_all(text))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_aliases_that_write_out_to_too_much_are_refused_where_they_do() -> None:
    assert wrong(nested(6)) == "line 6: aliases expand to more than 1048576 characters, in a5[7]"


@pytest.mark.parametrize(
    "repeated",
    ["long: &long {text}\nall: [{aliases}]", "one: &long {{x: {text}}}\nall: [{aliases}]"],
    ids=["a text", "a text in a mapping"],
)
def test_long_texts_count_as_long_as_they_are(repeated: str) -> None:
    text = repeated.format(text="x" * 2000, aliases=", ".join(["*long"] * 600))
    assert "aliases expand to more than 1048576 characters, in all[" in wrong(text)
    assert len(strict_yaml.load(text.replace("x" * 2000, "xx"))["all"]) == 600


def test_what_several_documents_repeat_counts_together() -> None:
    one = f"a: &a {'x' * 300_000}\nb: [*a, *a]\n"
    assert list(strict_yaml.load_all(one))
    assert wrong(f"{one}---\n{one}").startswith("line 5: aliases expand")


def test_merged_mappings_count_too() -> None:
    lines = [f"a0: &a0 {{{', '.join(f'k{n}: x' for n in range(1000))}}}"]
    lines += [f"a{n}: &a{n} {{<<: *a{n - 1}, own{n}: 1}}" for n in range(1, 400)]
    assert "aliases expand" in wrong("\n".join(lines))


def test_ordinary_aliases_and_merge_keys_are_read() -> None:
    text = """
    usual: &usual {cpu: 1, memory: 1Gi}
    one: *usual
    two: {<<: *usual, cpu: 2}
    three: {<<: [*usual, {disk: 3}]}
    names: [&name digits, *name]
    """
    assert strict_yaml.load(text) == {
        "usual": {"cpu": 1, "memory": "1Gi"},
        "one": {"cpu": 1, "memory": "1Gi"},
        "two": {"cpu": 2, "memory": "1Gi"},
        "three": {"cpu": 1, "memory": "1Gi", "disk": 3},
        "names": ["digits", "digits"],
    }


def test_a_large_text_without_aliases_is_none_of_it() -> None:
    assert strict_yaml.load(f"a: {'x' * 2**21}")["a"] == "x" * 2**21


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: &b [1, *b]", "line 2: alias 'b' contains itself, in b[1]"),
        ("a: &a {<<: *a}", "line 1: alias 'a' contains itself, in a.<<"),
        ("a: *b", "line 1: found undefined alias 'b', in a"),
        ("[" * 5000 + "]" * 5000, "values are nested too deeply"),
        ("a: 1\nb: 2024-13-45", "line 2: value is not a valid YAML timestamp; quote it to make it text"),
        ("a: [!!int x]", "line 1: value is not a valid YAML int; quote it to make it text"),
        ("a: !!int ''", "line 1: value is not a valid YAML int; quote it to make it text"),
        ("a: !!bool x", "line 1: value is not a valid YAML bool; quote it to make it text"),
        ("a: !!timestamp x", "line 1: value is not a valid YAML timestamp; quote it to make it text"),
        ("a: " + "9" * 5000, "line 1: value is not a valid YAML int; quote it to make it text"),
        ("a: " + "59:" * 400 + "1.5", "line 1: value is not a valid YAML float; quote it to make it text"),
        ("spec:\n  model:\n    uri: a: b", "line 3: mapping values are not allowed here, in spec.model"),
        (
            "spec:\n  env:\n  - a: 1\n   b: 2",
            "line 4: expected <block end>, but found '<block mapping start>', in spec",
        ),
        ("a:\n- b: 1\n- c: [1,", "line 3: expected the node content, but found '<stream end>', in a[1].c"),
        ("a: \x00", "not YAML: unacceptable character #x0000: special characters are not allowed"),
    ],
)
def test_what_cannot_be_read_is_one_line(text: str, message: str) -> None:
    assert wrong(text) == message


def test_one_document_is_read_as_strictly() -> None:
    for text, message in (
        (nested(6), "line 6: aliases expand"),
        ("[" * 5000, "nested too deeply"),
        ("a\n---\nb", "line 2"),
    ):
        with pytest.raises(InvalidYaml, match=message):
            strict_yaml.load(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3", "line 3: duplicate key 'a', first in line 1"),
        ("a: {b: [{c: 1, c: 1}]}", "line 1: duplicate key 'c', first in line 1, in a.b[0]"),
        ("a: 1\n'a': 2", "line 2: duplicate key 'a', first in line 1"),
        ("x: &x {a: 1}\ny:\n  <<: *x\n  b: 1\n  b: 2", "line 5: duplicate key 'b', first in line 4, in y"),
        ("1: a\n1: b", "line 2: duplicate key '1', first in line 1"),
    ],
)
def test_a_key_that_is_there_twice_is_refused(text: str, message: str) -> None:
    assert wrong(text) == message


def test_what_a_merge_brings_is_not_there_twice() -> None:
    text = """
    base: &base {a: 1, b: 1}
    one: &one {<<: *base, a: 2}
    two: {<<: *one, a: 3, b: 3}
    three: {<<: *base, <<: {c: 1}, a: 4}
    four: [{a: 1}, {a: 1}]
    five: {1: a, '1': b}
    """
    found = strict_yaml.load(text)
    assert found["two"] == {"a": 3, "b": 3}
    assert found["three"] == {"a": 4, "b": 1, "c": 1}
    assert found["five"] == {1: "a", "1": "b"}


def test_what_comes_before_it_is_read() -> None:
    documents = strict_yaml.load_all("a: 1\n---\na: [")
    assert next(documents) == {"a": 1}
    with pytest.raises(InvalidYaml, match="line 3"):
        next(documents)

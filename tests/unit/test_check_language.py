"""The language check: each rule's findings with file and line, and texts that pass."""

from pathlib import Path

import pytest

import check_language
from check_language import MAX_COLUMNS, MAX_WORDS, check_code, check_document

LONG_SENTENCE = "one " * (MAX_WORDS + 1)
LONG_LINE = "x" * (MAX_COLUMNS + 1)


def code(source: str) -> list[str]:
    """Return the findings in a module, as they are printed."""
    return [str(each) for each in check_code("core/plan.py", source)]


def document(text: str) -> list[str]:
    """Return the findings in a document, as they are printed."""
    return [str(each) for each in check_document("docs/guide.md", text)]


@pytest.mark.parametrize(
    ("text", "finding"),
    [
        ("It starts anew.", "'anew': write again"),
        ("All but for one.", "'but for': write except"),
        ("It ends by itself.", "'by itself': write alone"),
        ("No ceiling.", "'ceiling': write upper bound or limit"),
        ("A lock hinders it.", "'hinders': write block"),
        ("No key is to be had.", "'is to be had': write exists"),
        ("It lets go of it.", "'lets go': write release"),
        ("Mend the spec.", "'Mend': write fix"),
        ("Nobody waits.", "'Nobody': write no one, or name the actor"),
        ("It obeyed.", "'obeyed': write execute"),
        ("No node has room.", "'room': write capacity, space or memory"),
        ("A resting key.", "'resting': write idle"),
        ("It ought to.", "'ought': write should"),
        ("It tells why.", "'tells': write show, report or print"),
        ("It is tried on.", "'tried on': write retry"),
        ("Whoever asks.", "'Whoever': write name the actor"),
    ],
)
def test_a_banned_word_is_found_in_code_and_documents_and_its_replacement_named(text: str, finding: str) -> None:
    assert code(f"import ast\n# {text}\n") == [f"core/plan.py:2: {finding}"]
    assert document(f"# Guide\n\n{text}\n") == [f"docs/guide.md:3: {finding}"]


def test_a_banned_phrase_is_found_across_a_line_break() -> None:
    assert document("It ends by\nitself.\n") == ["docs/guide.md:1: 'by itself': write alone"]


def test_banned_words_are_found_in_docstrings_and_texts_at_their_line() -> None:
    source = '"""Show a plan.\n\nIt is told twice.\n"""\n\nMESSAGE = "nobody asks"\n'
    assert code(source) == [
        "core/plan.py:3: 'told': write show, report or print",
        "core/plan.py:6: 'nobody': write no one, or name the actor",
    ]


def test_names_and_other_words_pass_in_code() -> None:
    source = '"""Retell it, and show `told` of a delivery."""\n\ntold = delivery["told"]\nmender = told  # `told` is a field\n'
    assert code(source) == []


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("def find_room() -> None: ...", "find_room"),
        ("class ArmRooms: ...", "ArmRooms"),
        ("def plan(resting_keys: int) -> None: ...", "resting_keys"),
        ("def plan(*, late: bool) -> None: ...", "late"),
        ("plan(patience=3)", "patience"),
        ("class Arm:\n    rate_ceiling: float", "rate_ceiling"),
    ],
)
def test_a_banned_word_in_a_name_is_found(source: str, name: str) -> None:
    (finding,) = code(source)
    assert f"name {name!r}: write a noun that says of what" in finding


def test_names_that_contain_a_banned_word_as_a_part_pass() -> None:
    assert code("def find_headroom(is_late: bool, dead_arm: str, grooming: int) -> None: ...") == []


def test_a_field_that_counts_may_be_an_adjective() -> None:
    assert code("class Outcomes:\n    late: int\n    told: NonNegativeInt = 0\n") == []


def test_a_module_with_a_banned_word_in_its_name_is_found() -> None:
    assert "name 'make_room'" in str(next(check_code("core/make_room.py", "")))


@pytest.mark.parametrize("opening", ["What", "Whatever", "Of", "Those", "As", "But", "By", "Until", "Since"])
def test_a_docstring_that_opens_with_a_clause_is_found_at_its_line(opening: str) -> None:
    expected = f"docstring opens with {opening}; expected an imperative or a noun phrase"
    assert code(f'"""{opening} it is."""\n') == [f"core/plan.py:1: {expected}"]
    assert code(f'class Plan:\n    """{opening} it is."""\n') == [f"core/plan.py:2: {expected}"]
    assert code(f'def plan() -> None:\n    """{opening} it is."""\n') == [f"core/plan.py:2: {expected}"]
    assert code(f'async def plan() -> None:\n    """{opening} it is."""\n') == [f"core/plan.py:2: {expected}"]


def test_a_docstring_with_an_imperative_or_a_noun_phrase_passes() -> None:
    assert code('"""Plans of a pass."""\n\n\ndef plan() -> None:\n    """Return what is asked. As before."""\n') == []
    assert code('"""Offset of a block."""\n') == []


def test_a_long_sentence_is_found_where_it_begins() -> None:
    assert document("# Guide\n\nA short one.\nAnother one. One\n" + "two\n" * MAX_WORDS) == [
        f"docs/guide.md:4: sentence of {MAX_WORDS + 1} words; expected at most {MAX_WORDS}"
    ]


def test_a_long_line_is_found() -> None:
    assert document(f"Short.\n{LONG_LINE}\n") == [
        f"docs/guide.md:2: {MAX_COLUMNS + 1} columns; expected at most {MAX_COLUMNS}"
    ]


@pytest.mark.parametrize("fence", ["```", "~~~"])
def test_fenced_code_passes_and_keeps_the_lines_of_the_text_after_it(fence: str) -> None:
    assert document(f"{fence}sh\ntell {LONG_LINE} {LONG_SENTENCE}\n{fence}\n\nNobody waits.\n") == [
        "docs/guide.md:5: 'Nobody': write no one, or name the actor"
    ]


@pytest.mark.parametrize(
    "text",
    [
        f"| {LONG_SENTENCE} | {LONG_LINE} |",
        f"# {LONG_SENTENCE} {LONG_LINE}",
        f"![{LONG_LINE}](plan.svg)",
        f"See [the plan](../{LONG_LINE}.md).",
        f"See https://example.com/{LONG_LINE}",
        "The fields `told` and `obey`.",
        "- " + "\n- ".join(["one item of a list"] * MAX_WORDS),
        "one paragraph of six words each\n\n" * MAX_WORDS,
        "**One sentence in bold type.**\n" * MAX_WORDS,
    ],
    ids=["table", "heading", "image", "link", "address", "inline-code", "list", "paragraphs", "bold"],
)
def test_tables_links_names_and_short_sentences_pass(text: str) -> None:
    assert document(f"# Guide\n\n{text}\n") == []


def test_the_words_of_inline_code_count_as_one() -> None:
    assert document(f"Run `sundog {'a ' * MAX_WORDS}` again.\n") == []


def test_the_command_prints_findings_and_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "tools").mkdir()
    (tmp_path / "docs" / "benchmarks").mkdir(parents=True)
    (tmp_path / "tools" / "plan.py").write_text("# tells\n")
    (tmp_path / "docs" / "guide.md").write_text("Nobody.\n")
    (tmp_path / "docs" / "benchmarks" / "archive.md").write_text("Nobody.\n")
    monkeypatch.setattr(check_language, "ROOT", tmp_path)

    assert check_language.main() == 1
    assert capsys.readouterr().out.splitlines() == [
        "tools/plan.py:1: 'tells': write show, report or print",
        "docs/guide.md:1: 'Nobody': write no one, or name the actor",
    ]

    (tmp_path / "tools" / "plan.py").write_text("# shows\n")
    (tmp_path / "docs" / "guide.md").write_text("No one.\n")
    assert check_language.main() == 0
    assert capsys.readouterr().out == ""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sundog_operator.core.trial.rollout.commands import RolloutCommand, parse_command


@pytest.mark.parametrize(
    ("text", "command"),
    [
        ("promote revision=8 id=abc", RolloutCommand("abc", "promote", 8)),
        ("  abort   id=a.b-c_1 revision=12 ", RolloutCommand("a.b-c_1", "abort", 12)),
        ("promote revision=8 id=abc full=true", RolloutCommand("abc", "promote", 8, full=True)),
        ("promote revision=8 id=abc full=false", RolloutCommand("abc", "promote", 8)),
        ("skip revision=8 id=abc", RolloutCommand("abc", "skip", 8)),
        ("rollback revision=3 id=x", RolloutCommand("x", "rollback", 3)),
    ],
)
def test_commands_are_parsed(text: str, command: RolloutCommand) -> None:
    assert parse_command(text) == command


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "id: ''; expected 1 to 64 letters, digits, '.', '_' or '-'"),
        ("promote revision=8 id=a/b", "id: 'a/b'; expected 1 to 64 letters, digits, '.', '_' or '-'"),
        (
            "launch revision=8 id=a",
            "verb: 'launch'; expected one of promote, skip, pause, resume, abort, retry, rollback, stop",
        ),
        ("promote id=a", "revision: ''; expected a revision number"),
        ("promote revision=0 id=a", "revision: '0'; expected a revision number"),
        ("promote revision=8 id=a full=yes", "full: 'yes'; expected true or false"),
        ("promote revision=8 id=a now", "'now': unknown option; expected revision or full"),
    ],
)
def test_an_invalid_command_has_a_problem(text: str, problem: str) -> None:
    assert parse_command(text).problem == problem


@given(st.text(max_size=400))
def test_any_text_gives_a_command_with_a_bounded_id(text: str) -> None:
    command = parse_command(text)
    assert len(command.id) <= 64
    assert command.problem or command.revision >= 1

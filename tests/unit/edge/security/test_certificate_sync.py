"""Certificates that HAProxy's OpenSSL refuses, told by a made-up HAProxy."""

import stat

import pytest

from sundog_edge.haproxy import program
from sundog_edge.security.certificate_sync import CertificateSync, ensure_files
from sundog_edge.security.certificates import Certificates
from sundog_edge.state_dir import StateDir

# As HAProxy writes it. The number of a line is that of the first one with this content.
SAY = """#!/bin/sh
echo . >> {calls}
folder=$(dirname $3)
for number in $(grep -n crt $3 | cut -d: -f1); do
    if grep -q WEAK $folder/$number.pem; then
        failed=1
        echo "[ALERT]    (9) : config : parsing [$3:$number] : 'bind unix@$folder/socket' in section 'frontend' : unable to load \
SSL certificate into SSL Context '$folder/$number.pem': ca md too weak." >&2
    fi
done
test -z "$failed"
"""
GOOD, WEAK, OTHER = b"GOOD", b"WEAK", b"OTHER"


@pytest.fixture
def state(tmp_path, monkeypatch):
    monkeypatch.setattr("sundog_edge.state_dir.MAX_PATH", 500)
    haproxy = tmp_path / "haproxy"
    haproxy.write_text(SAY.format(calls=tmp_path / "calls"))
    haproxy.chmod(stat.S_IRWXU)
    monkeypatch.setenv(program.HAPROXY_VARIABLE, str(haproxy))
    return StateDir.at(tmp_path / "s")


def checks(state) -> int:
    calls = state.root.parent / "calls"
    return len(calls.read_text().split()) if calls.exists() else 0


def test_a_certificate_that_haproxy_does_not_load_is_a_problem_and_each_is_checked_once(state):
    sync = CertificateSync(None, None, state)
    given = Certificates({"a": GOOD, "b": WEAK, "c": GOOD}, {"a": ("x",)}, {"d": ("is missing or empty",)})
    for _ in range(2):
        found = sync.check(given)
        assert (found.pems, found.hosts) == ({"a": GOOD, "c": GOOD}, {"a": ("x",)})
        assert found.problems["d"] == ("is missing or empty",)
        assert found.problems["b"][0].startswith("cannot be loaded by HAProxy: ca md too weak; expected ")
    assert checks(state) == 2, "all, and once more without the weak one"
    assert sync.check(Certificates({"a": GOOD, "b": OTHER})).problems == {}
    assert checks(state) == 3
    assert sync.check(Certificates()) == Certificates()
    assert checks(state) == 3, "without a certificate, HAProxy is not asked"
    assert {path.name for path in state.root.iterdir()} == {"maps", "public_keys", "certificates"}, "no key stays"


def test_haproxy_starts_without_a_stored_certificate_that_it_does_not_load(state):
    for name, pem in (("_default", GOOD), ("a", WEAK), ("b", OTHER)):
        state.certificate(name).write_bytes(pem)
    lines = [f"{state.certificate(name)}{hosts}" for name, hosts in (("_default", ""), ("a", " x"), ("b", " y"))]
    state.certificate_list.write_text("".join(f"{line}\n" for line in (*lines, f"{state.root}/gone.pem z")))
    ensure_files(state)
    assert state.certificate_list.read_text().splitlines() == [lines[0], lines[2]]


def test_certificates_are_used_unchecked_while_the_check_fails_for_another_reason(state, caplog):
    haproxy, working = state.root.parent / "haproxy", (state.root.parent / "haproxy").read_text()
    haproxy.write_text("#!/bin/sh\necho '[ALERT] (9) : config : out of memory' >&2\nexit 1\n")
    sync, given = CertificateSync(None, None, state), Certificates({"a": GOOD, "b": WEAK})
    for _ in range(2):
        assert sync.check(given) == given
    (message,) = caplog.messages
    assert "used unchecked: HAProxy cannot check certificates" in message
    assert "out of memory" in message
    haproxy.write_text(working)
    assert sync.check(given).pems == {"a": GOOD}

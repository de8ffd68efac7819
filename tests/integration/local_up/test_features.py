"""The examples of `examples/features` on one machine: batching, a canary by cookie, answers in pieces, TLS, keys and rates."""

import http.client
import http.cookiejar
import json
import shutil
import signal
import socket
import ssl
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from certificates import self_signed
from real_local import condition, is_ready, stable, weight
from waiting import PATIENCE_S

pytestmark = [pytest.mark.ray, pytest.mark.haproxy]

EXAMPLES = Path(__file__).parents[3] / "examples" / "features"
VISITORS = 60
SENTENCE = ["a", "bright", "spot", "beside", "the", "sun"]


def example(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((EXAMPLES / name).read_text()))


def test_batching_a_canary_by_cookie_and_an_answer_in_pieces(
    up: Any, model: Any, clients: Callable[[str], Any], wait: Callable[..., Any]
) -> None:
    shutil.copytree(EXAMPLES / "words", up.manifests / "words")
    shutil.copy(EXAMPLES / "streaming.yaml", up.manifests)
    (batched,), (canary,) = example("batching.yaml"), example("cookie-canary.yaml")
    manifest = up.manifests / "mlp.yaml"

    def write(version: str) -> None:
        made = json.loads(model.manifest(version))
        made["spec"]["runtime"] = batched["spec"]["runtime"]
        made["spec"]["rollout"] = {**canary["spec"]["rollout"], "steps": [{"weight": 25, "gate": "manual"}]}
        manifest.write_text(json.dumps(made))

    write("v1")
    up.start()
    wait(lambda: is_ready(up.read("mlp")) and is_ready(up.read("words")), "both serving")

    done = up.sundog("predict", "words", "-d", f"@{EXAMPLES / 'words' / 'request.json'}")
    assert done.returncode == 0, done.stderr
    assert [json.loads(line) for line in done.stdout.splitlines()] == [
        {"outputs": {"place": place, "word": word}} for place, word in enumerate(SENTENCE)
    ]

    load = clients(up.read("mlp")["status"]["url"])
    load.start(4)
    wait(lambda: load.total() > 100, "clients being served")
    write("v2")
    wait(lambda: weight(up.read("mlp")) == 25, "the canary at 25 %")
    wait(lambda: condition(up.read("mlp"), "TrafficSynced").get("reason") == "InForce", "the split in force")
    answered = [visit(load.url, model.inputs) for _ in range(VISITORS)]
    assert all(len(set(revisions)) == 1 for revisions in answered), "a visitor stays where the cookie says"
    # Nobody of so many in one arm of 25 % has a chance of 3 in 10^8.
    assert {revisions[0] for revisions in answered} == {"1", "2"}
    load.stop()
    assert load.wrong == []
    assert up.end(signal.SIGINT) == 0


def visit(url: str, inputs: Any) -> list[str]:
    """Three requests of one browser; the revisions that answered."""
    browser = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar()))
    request = urllib.request.Request(url, json.dumps({"inputs": inputs}).encode(), {"content-type": "application/json"})
    found = []
    for _ in range(3):
        with browser.open(request, timeout=PATIENCE_S) as answer:
            found.append(answer.headers["x-sundog-revision"])
            answer.read()
    return found


def test_tls_keys_rates_and_secrets_that_come_change_and_go(up: Any, wait: Callable[..., Any], tmp_path: Path) -> None:
    shutil.copytree(EXAMPLES / "words", up.manifests / "words")
    manifest, certificate = up.manifests / "secured.yaml", self_signed("secured.default.svc")
    text = (EXAMPLES / "secured.yaml").read_text()
    manifest.write_text(text)
    (tmp_path / "tls.crt").write_text(certificate.certificate)
    up.start()

    def synced() -> tuple[str, str]:
        found = condition(up.read("secured"), "TrafficSynced")
        return found.get("reason", ""), found.get("message", "")

    wait(lambda: stable(up.read("secured")) == 1, "the revision deployed all the same")
    assert synced()[0] == "SecretNotFound"
    assert "Secret default/secured-cert does not exist" in synced()[1]
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "secured-cert"},
        "type": "kubernetes.io/tls",
        "stringData": {"tls.crt": certificate.certificate, "tls.key": certificate.key},
    }
    (tmp_path / "tls.yaml").write_text(yaml.safe_dump(secret))
    assert up.sundog("apply", "-f", str(tmp_path / "tls.yaml")).stdout == "secret/secured-cert created\n"
    wait(lambda: is_ready(up.read("secured")), "readiness with the certificate")
    url = up.read("secured")["status"]["url"]
    assert url.startswith("https://127.0.0.1:")

    def ask(key: str = "") -> tuple[int, str]:
        return post(url, key, tmp_path / "tls.crt")

    ann, bob = "replace-this-key-of-ann", "replace-this-key-of-bob"
    wait(lambda: presents(url, tmp_path / "tls.crt"), "the certificate in force")
    wait(lambda: ask(bob)[0] == 200, "the keys in force")
    done = up.sundog(
        *("predict", "secured", "-d", f"@{EXAMPLES / 'words' / 'request.json'}"),
        *("--cacert", str(tmp_path / "tls.crt"), "--api-key", ann),
    )
    assert done.returncode == 0, done.stderr
    assert [json.loads(line)["outputs"]["word"] for line in done.stdout.splitlines()] == SENTENCE
    assert ask()[0] == ask("replace-this-key-of-eve")[0] == 401
    answers = [ask(ann) for _ in range(30)]
    assert {status for status, _ in answers} == {200, 429}
    assert all(int(again) >= 1 for status, again in answers if status == 429)
    assert ask(bob)[0] == 200, "a client's rate is its own"

    # An edit of the file is a rotation.
    manifest.write_text(text.replace(bob, "another-key-of-bob"))
    wait(lambda: ask(bob)[0] == 401, "the old key refused")
    wait(lambda: ask("another-key-of-bob")[0] == 200, "the new key accepted, at the rate of the client whose key it is")

    # Without the Secret nobody is let in, and what serves stays as it is.
    manifest.write_text(text.partition("---")[2])
    wait(lambda: synced()[0] == "SecretNotFound", "the condition")
    wait(lambda: ask(ann)[0] == ask("another-key-of-bob")[0] == 401, "every key refused")
    assert stable(up.read("secured")) == 1
    manifest.write_text(text)
    wait(lambda: is_ready(up.read("secured")), "readiness again")
    wait(lambda: ask(bob)[0] == 200, "the key accepted again")

    shown = up.output() + up.sundog("describe", "secured").stdout + (up.state / "logs" / "sundog.log").read_text()
    assert not any(hidden in shown for hidden in (ann, bob, certificate.key.splitlines()[1]))
    assert up.end(signal.SIGINT) == 0


def presents(url: str, authority: Path) -> bool:
    """Whether the edge presents the service's certificate."""
    try:
        return bool(post(url, "", authority))
    except ssl.SSLCertVerificationError:
        return False


def post(url: str, key: str, authority: Path) -> tuple[int, str]:
    """(status, Retry-After) of one request; the certificate is that of the service, not of the address."""
    parts = urlsplit(url)
    context = ssl.create_default_context(cafile=str(authority))
    with (
        socket.create_connection((parts.hostname, parts.port), timeout=PATIENCE_S) as plain,
        context.wrap_socket(plain, server_hostname="secured.default.svc") as encrypted,
    ):
        connection = http.client.HTTPConnection(parts.netloc)
        connection.sock = encrypted
        headers = {"content-type": "application/json", **({"x-api-key": key} if key else {})}
        connection.request("POST", parts.path, b'{"inputs": "a sundog"}', headers)
        with connection.getresponse() as answer:
            answer.read()
            return answer.status, answer.headers.get("retry-after", "")

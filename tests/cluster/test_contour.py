"""Digits behind a Gateway of Contour and Envoy: HTTP, gRPC and streams from outside, the clients' addresses, and edges that roll.

All programs are real. One ModelDeployment goes through all of it, in the order of the tests.
"""

import contextlib
import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import pytest
import tritonclient.grpc

from real_kubernetes import contour
from real_kubernetes.binaries import CONTOUR
from real_kubernetes.cluster import BINARIES
from real_kubernetes.contour import Gateway
from real_local import is_ready
from real_serving import CLAIM, Json, Serving, Team
from waiting import PATIENCE_S, patience

pytestmark = [
    pytest.mark.timeout(patience(1200)),
    pytest.mark.skipif(bool(contour.MISSING), reason=contour.MISSING),
]

NAMESPACE = "outside"
HOST, NARRATOR = "digits.example.com", "narrator.example.com"
ZEROS = [[[0] * 8] * 8]
CLIENTS = 6
PARENT = {"name": contour.GATEWAY, "namespace": contour.NAMESPACE, "sectionName": contour.LISTENER}
ENDPOINT = {"host": HOST, "gateway": PARENT}
PIECES = 5
PREDICTOR = """
import asyncio


class Predictor:
    def load(self, path, config):
        pass

    def example(self):
        return {"pieces": 1}

    async def predict(self, batch):
        for number in range(batch["pieces"]):
            await asyncio.sleep(0.5)
            yield {"number": number}
"""


@dataclass(frozen=True)
class Outside:
    """Clients that reach the team's models by the Gateway alone."""

    team: Team
    gateway: Gateway

    def client(self, host: str = HOST, *, source: str = "127.0.0.1") -> httpx.Client:
        """A client that asks for a host from an address of its own."""
        trusted = ssl.create_default_context(cadata=self.gateway.certificate.certificate)

        def name_server(request: httpx.Request) -> None:
            request.extensions["sni_hostname"] = host

        return httpx.Client(
            base_url=f"https://127.0.0.1:{self.gateway.port}",
            headers={"host": host},
            transport=httpx.HTTPTransport(verify=trusted, local_address=source),
            timeout=PATIENCE_S,
            event_hooks={"request": [name_server]},
        )

    def ask(self, source: str) -> int:
        """The status that a client of an address gets."""
        with self.client(source=source) as client:
            return client.post("/", json={"inputs": ZEROS}).status_code

    @contextlib.contextmanager
    def limited(self) -> Iterator[None]:
        """Each client may ask twice an hour."""
        team = self.team
        team.apply(team.digits("v2", endpoint={**ENDPOINT, "rateLimit": {"perClient": "2/h"}}))
        try:
            yield
        finally:
            team.apply(team.digits("v2", endpoint=ENDPOINT))
        team.until(lambda: {self.ask("127.0.0.2") for _ in range(5)} == {200}, "no limit any more")

    def until_refused(self, source: str) -> None:
        self.team.until(lambda: self.ask(source) == 429, f"{source} has asked too often")

    def address_of_envoy(self) -> str:
        """The address that the edges see of processes on the node."""
        with socket.socket(type=socket.SOCK_DGRAM) as looking:
            looking.connect((self.team.edges()[0]["status"]["podIP"], 80))
            return str(looking.getsockname()[0])

    def until_routed(self, name: str, host: str) -> None:
        self.team.until(lambda: self.team.condition_state("RouteAccepted", name) == ("True", "Accepted"), "a route")
        self.team.until(lambda: self._answers(host), f"Envoy knows {host}")

    def _answers(self, host: str) -> bool:
        # Contour accepts a route before Envoy has it.
        with self.client(host) as client, contextlib.suppress(httpx.ConnectError):
            return client.get("/v2/health/ready").status_code == 200
        return False


def trusting(values: Json, proxy: str) -> Json:
    """The chart's values with a trusted proxy."""
    installation = values["installation"]
    edge = installation["edge"]
    haproxy = {**edge.get("haproxy", {}), "trustedProxies": [f"{proxy}/32"]}
    return {**values, "installation": {**installation, "edge": {**edge, "haproxy": haproxy}}}


def narrator() -> Json:
    spec = {
        "model": {"uri": f"pvc://{CLAIM}/narrator", "entrypoint": "predictor:Predictor"},
        "resources": {"cpu": "100m", "memory": "1Gi"},
        "endpoint": {"host": NARRATOR, "gateway": PARENT},
    }
    head = {"apiVersion": "serving.sundog.dev/v1alpha1", "kind": "ModelDeployment"}
    return {**head, "metadata": {"name": "narrator"}, "spec": spec}


@pytest.fixture(scope="module")
def outside(serving: Serving) -> Iterator[Outside]:
    """Digits and a model that streams, each with a host of the Gateway."""
    cluster = serving.cluster
    if cluster.instance is None:
        pytest.skip("Envoy reaches the pods of the tests' own node only")
    BINARIES.build((CONTOUR,))
    with (
        contour.running(cluster.instance, BINARIES, cluster.kubectl) as gateway,
        serving.team(NAMESPACE) as team,
    ):
        file = cluster.instance.folder(f"volumes/{NAMESPACE}/narrator") / "predictor.py"
        file.write_text(PREDICTOR)
        team.apply(team.digits(endpoint=ENDPOINT), narrator())
        made = Outside(team, gateway)
        for name, host in (("digits", HOST), ("narrator", NARRATOR)):
            team.until_stable(1, name)
            made.until_routed(name, host)
        try:
            yield made
        finally:
            serving.upgrade(serving.values)


def test_a_host_of_the_gateway_leads_to_its_model_and_another_to_none(outside: Outside) -> None:
    with outside.client() as client:
        answer = client.post("/", json={"inputs": ZEROS})
    assert np.shape(answer.json()["outputs"]) == (1, 10)
    assert answer.headers["x-sundog-revision"] == "1"
    with outside.client("other.example.com") as client, pytest.raises(httpx.ConnectError):
        client.post("/", json={"inputs": ZEROS})


def test_grpc_comes_by_the_same_host(outside: Outside, tmp_path: Path) -> None:
    trusted = tmp_path / "ca.pem"
    trusted.write_text(outside.gateway.certificate.certificate)
    image = tritonclient.grpc.InferInput("image", (1, 8, 8), "FP32")
    image.set_data_from_numpy(np.zeros((1, 8, 8), np.float32))
    named = [("grpc.ssl_target_name_override", HOST), ("grpc.default_authority", HOST)]
    address = f"127.0.0.1:{outside.gateway.port}"
    with tritonclient.grpc.InferenceServerClient(
        address, ssl=True, root_certificates=str(trusted), channel_args=named
    ) as client:
        assert client.is_model_ready("digits")
        [scores] = client.infer("digits", [image], client_timeout=PATIENCE_S).get_response().outputs
    assert list(scores.shape) == [1, 10]


def test_a_stream_arrives_piece_by_piece(outside: Outside) -> None:
    sent = {"inputs": {"pieces": PIECES}}
    accepted = {"accept": "application/x-ndjson"}
    with outside.client(NARRATOR) as client, client.stream("POST", "/", json=sent, headers=accepted) as answer:
        assert answer.status_code == 200
        chunks = list(answer.iter_raw())
    assert len(chunks) >= PIECES, "nothing has gathered the pieces"


def test_a_canary_is_promoted_and_loses_no_request(outside: Outside) -> None:
    team, by_hand = outside.team, {"steps": [{"weight": 50, "gate": "manual"}]}
    with team.asked("digits", CLIENTS, ZEROS, client=outside.client) as answers:
        team.apply(team.digits("v2", endpoint=ENDPOINT, rollout=by_hand))
        team.until_canary(50)
        team.until(lambda: answers[200, "2"] > 50, "the candidate answers")
        team.sundog("promote", "digits")
        team.until_stable(2)
    assert answers[200, "1"] > 50


def test_without_trust_all_clients_are_one(outside: Outside) -> None:
    with outside.limited():
        outside.until_refused("127.0.0.2")
        assert outside.ask("127.0.0.3") == 429


def test_edges_that_learn_of_the_proxy_roll_and_lose_no_request(outside: Outside) -> None:
    team, serving = outside.team, outside.team.serving
    before = {edge["metadata"]["uid"] for edge in team.edges()}

    def rolled() -> bool:
        found = team.edges()
        return (
            all(map(is_ready, found))
            and len(found) == len(before)
            and not before & {edge["metadata"]["uid"] for edge in found}
        )

    with team.asked("digits", CLIENTS, ZEROS, client=outside.client):
        serving.upgrade(trusting(serving.values, outside.address_of_envoy()))
        team.until(rolled, "other edges")


def test_behind_a_trusted_proxy_each_client_has_its_own_rate(outside: Outside) -> None:
    with outside.limited():
        outside.until_refused("127.0.0.2")
        assert outside.ask("127.0.0.3") == 200

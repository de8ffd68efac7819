"""Plain requests to the API server, for tests that check its answers in detail."""

import base64
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml

from waiting import PATIENCE_S

Object = dict[str, Any]


@dataclass(frozen=True)
class Api:
    """A client of the API server. It raises no error for a status, because tests check refusals."""

    http: httpx.Client

    @classmethod
    def connect(cls, kubeconfig: Path) -> "Api":
        """Make a client for the current context of a kubeconfig with a token or a client certificate."""
        config = yaml.safe_load(kubeconfig.read_text())
        context = _named(config, "contexts", config["current-context"])["context"]
        cluster = _named(config, "clusters", context["cluster"])["cluster"]
        user = _named(config, "users", context["user"])["user"]
        tls = ssl.create_default_context(cadata=base64.b64decode(cluster["certificate-authority-data"]).decode())
        headers = {"Authorization": f"Bearer {user['token']}"} if "token" in user else {}
        return cls(
            httpx.Client(base_url=cluster["server"], verify=tls, headers=headers, timeout=PATIENCE_S, trust_env=False)
        )

    def send(self, method: str, path: str, body: Any = None, /, **query: str) -> Object:
        """Return the JSON of the answer; a Status if it is a refusal."""
        answer: Object = self.http.request(method, path, json=body, params=query).json()
        return answer

    def close(self) -> None:
        self.http.close()


def _named(config: Object, collection: str, name: str) -> Any:
    return next(item for item in config[collection] if item["name"] == name)

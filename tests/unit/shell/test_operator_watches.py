"""What the operator asks the API server to be told of: no more than it has rights to by default."""

from pathlib import Path
from typing import Any, cast

import pytest

from sundog_operator.adapters.kubernetes_client import KubernetesClient
from sundog_operator.adapters.metrics import Metrics
from sundog_operator.api.installation import Installation
from sundog_operator.ports import SECRET
from sundog_operator.shell.operator import Options, Watching


class Client:
    async def login(self) -> Any:
        raise AssertionError("nobody runs the watches here")


@pytest.mark.parametrize("watch_secrets", [False, True])
def test_secrets_are_watched_only_where_the_installation_says_so(watch_secrets: bool) -> None:
    installation = Installation(watch_secrets=watch_secrets)
    options = Options(installation, kubeconfig=Path("unused"), namespace="sundog", identity="me", host="", port=0)
    watching = Watching(cast("KubernetesClient", Client()), options, Metrics(1, "me"))
    kinds = [each.kind for each in watching.kopf._watched]
    assert (SECRET in kinds) is watch_secrets
    assert len(kinds) == len(set(kinds)) >= 7

"""A replica of the declared network, for tests of its HTTP API."""

from pathlib import Path
from typing import Any

import httpx
import pytest


@pytest.fixture
async def client(torch_model: Path, args: Any, serve: Any) -> httpx.AsyncClient:
    """Start a replica of the declared torch model."""
    found: httpx.AsyncClient = await serve(args(torch_model))
    return found

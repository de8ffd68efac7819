"""The paths of the HTTP API and their answers. A new path of the protocols is one entry here."""

import re
from collections.abc import Callable
from dataclasses import dataclass

from sundog_runtime.errors import Problem
from sundog_runtime.formats.loaded_model import LoadedModel
from sundog_runtime.protocol.messages import Decoder, EncodedResponse
from sundog_runtime.protocol.oip import decode_oip, model_metadata, repository_index, server_metadata
from sundog_runtime.protocol.oip_tensors import check_model
from sundog_runtime.protocol.openapi import render_openapi
from sundog_runtime.protocol.plain_json import decode_plain, encode_json
from sundog_runtime.protocol.v1 import decode_v1, model_list, model_status

_V1_PATH = re.compile(r"/v1/models/([^/]+?)(?::predict)?")
_OPENAI_PATH = re.compile(r"/v1/(?!models/)|/(chat/)?completions$|/embeddings$|/responses$")
_MODEL_PATH = re.compile(r"/v2/models/([^/]+)(?:/versions/([^/]+))?(/.*)?")


@dataclass(frozen=True, slots=True)
class Route:
    """An answer to GET, or to POST if `is_post`, fixed or made for each request; or the decoder of the body of a POST."""

    answer: EncodedResponse | Callable[[], EncodedResponse] | None = None
    decode: Decoder | None = None
    is_post: bool = False

    @property
    def methods(self) -> tuple[str, ...]:
        """Return the HTTP methods that are allowed here."""
        return ("POST",) if self.decode is not None or self.is_post else ("GET", "HEAD")


class Routes:
    """The paths below the prefix of one model."""

    def __init__(self, name: str, version: str, model: LoadedModel) -> None:
        self._name = name
        self._fixed = {
            "/": Route(decode=lambda _, body: decode_plain(model, body)),
            "/openapi.json": _get(render_openapi(name, version, model)),
            "/v2": _get(server_metadata(version)),
            "/v2/health/live": _get(encode_json({"live": True})),
            "/v2/health/ready": _get(encode_json({"ready": True})),
            "/v2/repository/index": Route(answer=EncodedResponse(repository_index(name)), is_post=True),
            "/v1/models": _get(model_list(name)),
            f"/v1/models/{name}": _get(model_status(name)),
            f"/v1/models/{name}:predict": Route(decode=lambda _, body: decode_v1(model, body)),
        }
        self._of_model = {
            "": _get(model_metadata(name, model)),
            "/ready": _get(encode_json({"name": name, "ready": True})),
            "/infer": Route(decode=lambda headers, body: decode_oip(name, model, headers, body)),
        }

    @property
    def prediction_paths(self) -> tuple[str, ...]:
        """Return the paths of predictions, without those that have a version."""
        fixed = (path for path, route in self._fixed.items() if route.decode is not None)
        of_model = (path for path, route in self._of_model.items() if route.decode is not None)
        return (*fixed, *(f"/v2/models/{self._name}{path}" for path in of_model))

    def add(self, path: str, route: Route) -> None:
        """Add a path. It has no slash at its end."""
        self._fixed[path] = route

    def find(self, path: str) -> Route:
        """Return the route of a path below the prefix, without a slash at its end except `/` itself. Raises Problem 404."""
        if found := self._fixed.get(path):
            return found
        if matched := _V1_PATH.fullmatch(path):
            check_model(matched[1], "", self._name)
        elif _OPENAI_PATH.match(path):
            raise _no_openai(path, self._name)
        matched = _MODEL_PATH.fullmatch(path)
        route = self._of_model.get(matched[3] or "") if matched else None
        if matched is None or route is None:
            raise Problem(404, "NotFound", f"path {path[:200]!r} does not exist")
        check_model(matched[1], matched[2] or "", self._name)
        return route


def _no_openai(path: str, name: str) -> Problem:
    """Return the problem of a path of OpenAI's API, with `error` in the form that its clients read."""
    detail = (
        f"path {path[:200]!r} does not exist: this service does not speak OpenAI's API. It answers plain JSON at /, the Open Inference"
        f" Protocol at /v2/models/{name}/infer and KServe v1 at /v1/models/{name}:predict; see /openapi.json"
    )
    error = {"message": detail, "type": "invalid_request_error", "param": None, "code": "unknown_url"}
    return Problem(404, "NotFound", detail, error=error)


def _get(body: bytes) -> Route:
    return Route(answer=EncodedResponse(body))

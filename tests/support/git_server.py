"""A Git repository over HTTP, as a forge serves it, for tools that pull from one. Git itself answers them."""

import subprocess
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from email import message_from_bytes
from pathlib import Path
from wsgiref.simple_server import make_server
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

AUTHOR = ("-c", "user.name=Team Vision", "-c", "user.email=vision@example.com")


@dataclass(frozen=True)
class Repository:
    """A repository with one branch, `main`.

    Attributes:
        url: where Git finds it.
        folder: its work tree.
    """

    url: str
    folder: Path

    def git(self, *arguments: str) -> str:
        """Run a command in the repository and return what it printed."""
        command = ("git", "-C", str(self.folder), *AUTHOR, *arguments)
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    def commit(self, message: str, files: Mapping[str, str | None]) -> str:
        """Write files, delete those without text, and return the id of the commit."""
        for name, text in files.items():
            path = self.folder / name
            if text is None:
                path.unlink()
            else:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text)
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", message)
        return self.git("rev-parse", "HEAD")


@contextmanager
def serving(folder: Path) -> Iterator[Repository]:
    """Serve a new repository on loopback."""
    folder.mkdir()
    with make_server("127.0.0.1", 0, _application(folder)) as server:
        repository = Repository(f"http://127.0.0.1:{server.server_port}/", folder)
        repository.git("init", "--quiet", "--initial-branch=main")
        thread = threading.Thread(target=server.serve_forever, name="git")
        thread.start()
        try:
            yield repository
        finally:
            server.shutdown()
            thread.join()


def _application(folder: Path) -> WSGIApplication:
    """Return an application that hands each request to Git's own CGI program."""
    own = {"GIT_PROJECT_ROOT": str(folder / ".git"), "GIT_HTTP_EXPORT_ALL": "1"}

    def answer(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        request = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        variables = {name: value for name, value in environ.items() if isinstance(value, str)}
        done = subprocess.run(
            ("git", "http-backend"), input=request, env=variables | own, check=True, capture_output=True
        )
        head, _, body = done.stdout.partition(b"\r\n\r\n")
        headers = message_from_bytes(head)
        start_response(headers.get("Status", "200 OK"), [item for item in headers.items() if item[0] != "Status"])
        return [body]

    return answer

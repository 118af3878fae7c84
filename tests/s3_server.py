"""An S3 server on loopback, over HTTP, whose answers a test may disturb."""

from __future__ import annotations

import threading
import time
import urllib.request
from collections.abc import Callable

import obstore
from moto.s3.models import s3_backends
from moto.server import DomainDispatcherApplication, create_backend_app
from obstore.store import S3Store
from werkzeug.serving import WSGIRequestHandler, make_server

BUCKET = "bucket"
SECRET = "a-secret-that-nobody-may-see"
KEY = "AKIATHISISNOSECRETID"


class Quiet(WSGIRequestHandler):
    """Says nothing on the terminal."""

    def log(self, *_: object) -> None:
        pass


class Server:
    """moto behind werkzeug. requests: "METHOD /path" of every one so far.

    disturb: called with each of them before it is served; what it returns, a status and a body, is the answer instead.
    """

    def __init__(self) -> None:
        self.requests: list[str] = []
        self._at_work: set[int] = set()
        self.disturb: Callable[[str], tuple[str, str] | None] = lambda request: None
        self._app = DomainDispatcherApplication(create_backend_app)
        self._port = 0
        self.start()
        self.address = f"http://127.0.0.1:{self._port}"
        self.environment = {
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_ENDPOINT_URL": self.address,
            "AWS_REGION": "us-east-1",
        }
        self._ask("PUT", BUCKET)

    def start(self) -> None:
        """Listen, where it did before if it did."""
        self._server = make_server("127.0.0.1", self._port, self._serve, threaded=True, request_handler=Quiet)
        self._port = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Go away; what is stored stays for `start`."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def folder(self, url: str) -> S3Store:
        """The objects below a URL, without the project in between."""
        prefix = url.removeprefix(f"s3://{BUCKET}").strip("/")
        return S3Store(
            BUCKET,
            prefix=prefix or None,
            endpoint=self.address,
            access_key_id=KEY,
            secret_access_key=SECRET,
            client_options={"allow_http": True},
        )

    def content(self, url: str) -> dict[str, bytes]:
        """All objects below a URL."""
        folder = self.folder(url)
        names = [found["path"] for batch in obstore.list(folder) for found in batch]
        return {name: bytes(obstore.get(folder, name).bytes()) for name in names}

    def written(self) -> list[str]:
        """The paths that were put, in their order."""
        return [request.split(" ")[1].split("?")[0] for request in self.requests if request.startswith("PUT ")]

    def clear(self) -> None:
        """Forget all objects and requests, and disturb nothing more."""
        self.disturb = lambda request: None
        self._ask("POST", "moto-api/reset")
        self._ask("PUT", BUCKET)
        self.requests.clear()

    def fill(self, url: str, content: dict[str, bytes]) -> None:
        """Put objects below a URL."""
        folder = self.folder(url)
        for name, data in content.items():
            obstore.put(folder, name, data)

    def names(self, url: str) -> set[str]:
        """What lies below a URL, by the server's own memory: works from `disturb`, too."""
        start = url.removeprefix(f"s3://{BUCKET}/") + "/"
        keys = [key for account in s3_backends.values() for key in account["global"].buckets[BUCKET].keys]
        return {key.removeprefix(start) for key in keys if key.startswith(start)}

    def settle(self) -> None:
        """Wait until what has arrived is answered."""
        while self._at_work:
            time.sleep(0.01)

    def check_credentials(self, wanted: bool) -> None:
        """Refuse everybody, or nobody: the server knows no accounts."""
        self._ask("POST", "moto-api/reset-auth", b"0" if wanted else b"1e9")

    def _ask(self, method: str, path: str, body: bytes | None = None) -> None:
        headers = {"Content-Type": "text/plain"}
        request = urllib.request.Request(f"{self.address}/{path}", method=method, data=body, headers=headers)
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request) as answer:
            answer.read()

    def _serve(self, environ: dict, start_response: Callable) -> object:
        query = f"?{environ['QUERY_STRING']}" if environ.get("QUERY_STRING") else ""
        request = f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']}{query}"
        self.requests.append(request)
        self._at_work.add(threading.get_ident())
        try:
            answer = self.disturb(request)
            if answer is None:
                return self._app(environ, start_response)
        finally:
            self._at_work.discard(threading.get_ident())
        environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        status, body = answer
        start_response(status, [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))])
        return [body.encode()]

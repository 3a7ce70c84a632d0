"""A minimal W&B server: users' names and a run."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

_RUN = {
    "id": "a",
    "name": "abc",
    "displayName": "x",
    "project": {"id": "p", "name": "p", "entity": {"id": "e", "name": "e"}},
    "historyLineCount": 0,
}
_ANSWER = {
    "viewer": {"id": "v", "entity": "e", "username": "u", "flags": "{}", "teams": {"edges": []}},
    "serverInfo": {"cliVersionInfo": {}, "latestLocalVersionInfo": None, "features": []},
    "upsertBucket": {"bucket": _RUN, "inserted": True},
}


@contextmanager
def server(status: int = 200) -> Iterator[ThreadingHTTPServer]:
    """Serve on a free port of this machine, with this status for every request."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            content = json.dumps({"data": _ANSWER}).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        Thread(target=running.serve_forever, daemon=True).start()
        try:
            yield running
        finally:
            running.shutdown()

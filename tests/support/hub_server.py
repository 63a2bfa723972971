"""A server with the few answers of the Hugging Face Hub that its client needs to download a repository."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

_COMMIT = "0" * 40


@contextmanager
def serving(root: Path, gated: bool = False) -> Iterator[str]:
    """Serve the folders `root/OWNER/NAME` as repositories; gives the address for HF_ENDPOINT.

    Of gated ones everybody may see what there is, and nobody gets it.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self._answer(body=False)

        def do_GET(self) -> None:
            self._answer(body=True)

        def _answer(self, body: bool) -> None:
            parts = self.path.partition("?")[0].strip("/").split("/")
            if parts[:2] == ["api", "models"]:
                folder = root / parts[2] / parts[3]
                files = sorted(file for file in folder.iterdir() if file.is_file())
                tree = [{"type": "file", "path": f.name, "size": f.stat().st_size, "oid": f.name} for f in files]
                siblings = [{"rfilename": file.name} for file in files]
                whole = {"id": "/".join(parts[2:4]), "sha": _COMMIT, "siblings": siblings}
                data = json.dumps(tree if parts[4:5] == ["tree"] else whole).encode()
            elif gated:
                self.send_response(403)
                self.send_header("X-Error-Code", "GatedRepo")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            elif parts[2:3] == ["resolve"]:  # OWNER/NAME/resolve/REVISION/FILE
                data = (root / parts[0] / parts[1] / parts[4]).read_bytes()
            else:
                self.send_error(404)
                return
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.send_header("ETag", f'"{parts[-1]}"')
            self.send_header("X-Repo-Commit", _COMMIT)
            self.end_headers()
            if body:
                self.wfile.write(data)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()

"""A proxy on loopback that cuts the line once, after a number of bytes in both directions together."""

import socket
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from urllib.parse import urlsplit


@contextmanager
def cut_after(url: str, num_bytes: int) -> Iterator[str]:
    """Forward to a server; the connection that carries the last allowed byte is cut, later ones are not."""
    target = urlsplit(url)
    lock, left = threading.Lock(), [num_bytes]
    clients: list[socket.socket] = []

    def allow(size: int) -> int:
        """How many of some bytes may pass."""
        with lock:
            if left[0] < 0:  # cut before
                return size
            allowed = min(size, left[0])
            left[0] = left[0] - size if size <= left[0] else -1
            return allowed

    def pump(source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(4096):
                allowed = allow(len(data))
                sink.sendall(data[:allowed])
                if allowed < len(data):
                    break
        close(source, sink)

    def close(*ends: socket.socket) -> None:
        for end in ends:
            with suppress(OSError):  # closed already
                end.shutdown(socket.SHUT_RDWR)

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            clients.append(self.request)
            with socket.create_connection((str(target.hostname), int(target.port or 80))) as upstream:
                back = threading.Thread(target=pump, args=(upstream, self.request))
                back.start()
                pump(self.request, upstream)
                back.join()

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()
            close(*clients)  # those that a client keeps open

"""A wire that answers late: stands before a server and holds back everything that the server says."""

import socket
import threading
import time
from contextlib import suppress

BACKLOG = 64


class SlowWire:
    """Listens on a port of its own, in threads that end with the tests.

    Args:
        port: of the server on 127.0.0.1.
        seconds: how late its answers come.
    """

    def __init__(self, port: int, seconds: float) -> None:
        self._server, self._seconds = port, seconds
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=BACKLOG)
        self.port = int(self._listener.getsockname()[1])
        self._start(self._accept)

    def close(self) -> None:
        """Take no new connection."""
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self._server))
            self._start(lambda a=client, b=server: self._carry(a, b, 0.0))
            self._start(lambda a=server, b=client: self._carry(a, b, self._seconds))

    def _carry(self, source: socket.socket, target: socket.socket, late: float) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                time.sleep(late)
                target.sendall(data)
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def _start(self, work: object) -> None:
        threading.Thread(target=work, daemon=True, name="wire").start()  # type: ignore[arg-type]

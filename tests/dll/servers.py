"""Servers that the library is tried against, on threads of this process, behaving well and badly."""

import socket
import ssl
import subprocess
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

Act = Callable[[socket.socket], None]


class Servers:
    """Listeners on the loopback; every connection has a thread until the end."""

    def __init__(self) -> None:
        self._listeners: list[socket.socket] = []
        self._connections: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._over = False

    def __enter__(self) -> "Servers":
        return self

    def __exit__(self, *_: object) -> None:
        self._over = True
        for each in self._listeners:
            # Closing alone does not wake who accepts.
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
        for each in self._connections:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(10)
        for each in self._connections:
            each.close()

    def serve(self, act: Act, secure: ssl.SSLContext | None = None) -> int:
        """Listen and do with every connection what `act` says; return the port."""
        listener = socket.create_server(("127.0.0.1", 0))
        self._listeners.append(listener)
        self._start(lambda: self._accept(listener, act, secure))
        port: int = listener.getsockname()[1]
        return port

    def _start(self, run: Callable[[], None]) -> None:
        thread = threading.Thread(target=run, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self, listener: socket.socket, act: Act, secure: ssl.SSLContext | None) -> None:
        while not self._over:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._connections.append(connection)
            self._start(lambda connection=connection: self._attend(connection, act, secure))  # type: ignore[misc]

    def _attend(self, connection: socket.socket, act: Act, secure: ssl.SSLContext | None) -> None:
        try:
            if secure is not None:
                connection = secure.wrap_socket(connection, server_side=True)
                self._connections.append(connection)
            act(connection)
        except (OSError, ValueError):
            pass
        finally:
            if act is not deaf:
                with suppress(OSError):
                    connection.close()


def echo(connection: socket.socket) -> None:
    """Send back what comes."""
    while heard := connection.recv(65536):
        connection.sendall(heard)


def cut(connection: socket.socket) -> None:
    """Hear a word, send a thousand bytes and end."""
    connection.recv(9)
    connection.sendall(b"z" * 1000)


def deaf(connection: socket.socket) -> None:
    """Never read."""


def says(answer: bytes) -> Act:
    """Answer whatever comes with this and end."""

    def act(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(answer)

    return act


def web(connection: socket.socket) -> None:
    """Answer a request of HTTP 201 with its own body."""
    heard = b""
    while b"\r\n\r\n" not in heard:
        heard += _some(connection)
    head, _, body = heard.partition(b"\r\n\r\n")
    lines = head.decode().lower().split("\r\n")
    (length,) = (int(line.split(":")[1]) for line in lines if line.startswith("content-length:"))
    while len(body) < length:
        body += _some(connection)
    connection.sendall(b"HTTP/1.1 201 Created\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s" % (len(body), body))


def redis(connection: socket.socket) -> None:
    """Take the password `secret` and tell every message that seven heard it."""
    while heard := connection.recv(65536):
        if b"AUTH" in heard:
            connection.sendall(b"+OK\r\n" if b"secret" in heard else b"-WRONGPASS no\r\n")
        else:
            connection.sendall(b":7\r\n")


def _some(connection: socket.socket) -> bytes:
    heard = connection.recv(65536)
    if not heard:
        raise ConnectionError
    return heard


def authority(folder: Path, openssl: str) -> tuple[ssl.SSLContext, Path, Path]:
    """Make an authority and its certificate for localhost; return a server's context, and the authority as PEM and DER."""

    def run(*words: str) -> None:
        subprocess.run([openssl, *words], check=True, capture_output=True, cwd=folder, timeout=60)

    subject = ["-nodes", "-newkey", "rsa:2048", "-days", "30"]
    run("req", "-x509", *subject, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=Test Authority")
    run("req", *subject[:-2], "-keyout", "server.key", "-out", "server.csr", "-subj", "/CN=localhost")
    (folder / "names").write_text("subjectAltName=DNS:localhost\nextendedKeyUsage=serverAuth\n", encoding="ascii")
    signing = ["-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "30", "-extfile", "names"]
    run("x509", "-req", "-in", "server.csr", *signing, "-out", "server.pem")
    run("x509", "-in", "ca.pem", "-outform", "DER", "-out", "ca.der")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.pem", folder / "server.key")
    return context, folder / "ca.pem", folder / "ca.der"

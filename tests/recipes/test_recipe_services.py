"""The recipes that fetch over HTTP lose nothing and double nothing, wherever they are killed."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

import pytest

from support.patience import until
from support.recipes import DOSES, Recipe, ask, check_store, directories, killed_and_resumed, program

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@contextlib.contextmanager
def _server(answer: Callable[[str], str]) -> Iterator[tuple[str, Counter[str]]]:
    """A server that answers each path; its address, and how often it was asked for what."""
    asked: Counter[str] = Counter()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked[self.path] += 1
            body = answer(self.path).encode()
            with contextlib.suppress(ConnectionError):  # the client was killed
                self.send_response(200)
                self.send_header("Content-Length", f"{len(body)}")
                self.end_headers()
                self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    class Server(ThreadingHTTPServer):
        request_queue_size = 100

        def handle_error(self, *_: object) -> None:
            """The client was killed."""

    with Server(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", asked
        finally:
            server.shutdown()


@pytest.mark.parametrize(("rounds", "kills"), DOSES)
def test_every_url_is_fetched_and_stored_once(tmp_path: Path, rounds: int, kills: int) -> None:
    """After a kill at most a batch is fetched again, and what was in flight."""
    for directory in directories(tmp_path, rounds):
        with _server(lambda path: f"body of {path}") as (address, asked):
            met = killed_and_resumed(
                Recipe("Fetch URLs with a pool of threads", directory, API=address), kills, within_s=0.2
            )
        stored = ask(directory / "pages.milepost", "SELECT url, body FROM page ORDER BY rowid")
        assert stored == [(f"{address}/orders/{n}", f"body of /orders/{n}".encode()) for n in range(1000)]
        check_store(directory / "pages.milepost", "fetch", 1000)
        assert sum(asked.values()) - 1000 <= met * (100 + 64)


def test_a_loop_whose_body_submits_to_a_pool_is_caught(tmp_path: Path) -> None:
    """The mistake that the page warns of: what was submitted is recorded, and a kill loses it."""
    heading = "Fetch URLs with a pool of threads"
    head, _ = program(heading).split("    loop = ")
    naive = f"""from concurrent.futures import ThreadPoolExecutor
{head}
    with ThreadPoolExecutor(16) as pool:
        for url in store.checkpointed(urls, run_id="run-1", stage="fetch", every=100):
            pool.submit(fetch, url)
"""

    def slow(path: str) -> str:
        time.sleep(0.05)
        return path

    with _server(slow) as (address, asked):
        recipe = Recipe(heading, tmp_path, broken=naive, API=address)
        with recipe.started() as life:
            until(lambda: sum(asked.values()) > 100)
            assert life.kill()
        recipe.run()
    check_store(tmp_path / "pages.milepost", "fetch", 1000)
    assert len(asked) < 1000


@pytest.mark.parametrize(("rounds", "kills"), DOSES)
def test_every_page_is_read_and_stored_once(tmp_path: Path, rounds: int, kills: int) -> None:
    """The token of the next page is behind the orders that were stored with it."""
    tokens = ["first", *(f"token {number} & more" for number in range(1, 40))]

    def page(path: str) -> str:
        time.sleep(0.005)
        (token,) = parse_qs(urlsplit(path).query)["page"]
        number = tokens.index(token)
        orders = [{"id": each, "amount": each * 7 % 1000} for each in range(number * 10, number * 10 + 10)]
        return json.dumps({"orders": orders, "next": tokens[number + 1] if number + 1 < len(tokens) else None})

    for directory in directories(tmp_path, rounds):
        with _server(page) as (address, asked):
            recipe = Recipe("Read an API page by page", directory, API=address)
            met = killed_and_resumed(recipe, kills, within_s=0.1)
            recipe.run()  # it knows that it has come to the end
        orders = ask(directory / "api.milepost", "SELECT id, amount FROM orders ORDER BY rowid")
        assert orders == [(each, each * 7 % 1000) for each in range(400)]
        check_store(directory / "api.milepost", "orders", 40)
        assert sum(asked.values()) <= 40 + met

"""Targets for tests of shipping: one in memory whose objects can be changed, and one whose network fails."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar

import milepost
from milepost import FencedError, TargetError
from milepost.targets import Target
from support.chains import entry

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from milepost import CheckpointStore, Shipper

T = TypeVar("T")

NAME: Final = "orders"


class MemoryTarget(Target):
    """A target in memory. `objects_by_name` has its objects."""

    def __init__(self) -> None:
        self.label = "memory"
        self.objects_by_name: dict[str, bytes] = {}

    def put_new(self, name: str, data: bytes) -> bool:
        """Put an object unless there is one."""
        put = bytes(bytearray(data))  # an object of its own, so that the same bytes are not put twice
        return self.objects_by_name.setdefault(name, put) is put

    def get(self, name: str) -> bytes | None:
        """Read an object."""
        return self.objects_by_name.get(name)

    def objects(self, folder: str, after: str = "") -> list[tuple[str, int]]:
        """List a folder."""
        found = list(self.objects_by_name.items())
        return sorted((name, len(data)) for name, data in found if name.startswith(f"{folder}/") and name > after)

    def remove(self, names: Sequence[str]) -> None:
        """Remove objects."""
        for name in names:
            self.objects_by_name.pop(name, None)


class FailingTarget(Target):
    """
    A target behind a network that fails.

    Args:
        inner: The target.
        fails: Asked before each call with its number (0, 1, 2 …): None, or whether it fails before or after its effect.
    """

    def __init__(self, inner: Target, fails: Callable[[int], Literal["before", "after"] | None]) -> None:
        self.label = inner.label
        self.calls = 0
        self.failed = 0
        self._inner = inner
        self._fails = fails

    def _do(self, call: Callable[[], T]) -> T:
        when = self._fails(self.calls)
        self.calls += 1
        if when == "before":
            self.failed += 1
            raise TargetError(self.label, "the network failed before the call")
        result = call()
        if when == "after":
            self.failed += 1
            raise TargetError(self.label, "the network failed after the call")
        return result

    def put_new(self, name: str, data: bytes) -> bool:
        """As the target."""
        return self._do(lambda: self._inner.put_new(name, data))

    def get(self, name: str) -> bytes | None:
        """As the target."""
        return self._do(lambda: self._inner.get(name))

    def objects(self, folder: str, after: str = "") -> list[tuple[str, int]]:
        """As the target."""
        return self._do(lambda: self._inner.objects(folder, after))

    def remove(self, names: Sequence[str]) -> None:
        """As the target."""
        self._do(lambda: self._inner.remove(names))


def begun_and_told(store: CheckpointStore, target: Any, number: int) -> tuple[int, int]:
    """Begin so many shippers of a store at once, and ship by each. Return how many began, and how many are told."""
    shippers: list[Shipper] = []
    threads = [threading.Thread(target=lambda: shippers.append(milepost.ship(store, target, NAME))) for _ in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    store.append(entry(1))
    told = 0
    for shipper in shippers:
        try:
            shipper.ship()
        except FencedError:
            told += 1
    return len(shippers), told

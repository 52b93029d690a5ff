"""What works and may not for long is warned of, once, and fails nothing."""

from __future__ import annotations

import linecache
import shutil
import warnings
from typing import TYPE_CHECKING

import apsw
import pytest

from milepost import CheckpointStore, MilepostError, MilepostWarning, files
from milepost.lent import LentConnection
from milepost.remote import remote_kind
from milepost.wal import Wal, unread_commits
from support.chains import chain, entry
from support.doors import modes_of_write_backs, wal
from support.hooked_vfs import Call, hooked
from support.long_reader import long_reader

if TYPE_CHECKING:
    from pathlib import Path

MOUNTS = (
    "/dev/vda / ext4 rw 0 0\nserver:/home /home nfs4 rw 0 0\n/dev/vdb /home/local xfs rw 0 0\n"
    "sshfs /mnt/far\\040away fuse.sshfs rw 0 0\n//pc/share /mnt/share cifs rw 0 0\nhost /shared 9p rw 0 0\n"
    "/run/host_mark/Users /host fakeowner rw 0 0\nrclone /cloud fuse rw 0 0\n/dev/sdb1 /stick fuseblk rw 0 0\n"
    "/dev/sdc /cluster gfs2 rw 0 0\n/dev/sdd /cluster/two ocfs2 rw 0 0\ndrive /wsl drvfs rw 0 0\n"
    "server:/ü /mnt/ü nfs rw 0 0\nserver:/a /mnt/a\u2028b\x0c\x1c\x85c\rd nfs4 rw 0 0\n"
    "server:/b /mnt/tab\\011line\\012back\\134slash nfs rw 0 0\nshort\n"
)


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/var/orders.milepost", None),
        ("/home/orders.milepost", "nfs4"),
        ("/homework/orders.milepost", None),
        ("/home/local/orders.milepost", None),
        ("/mnt/far away/orders.milepost", "fuse.sshfs"),
        ("/mnt/share/deep/er/orders.milepost", "cifs"),
        ("/shared/orders.milepost", "9p"),
        ("/host/orders.milepost", "fakeowner"),
        ("/cloud/orders.milepost", "fuse"),
        ("/stick/orders.milepost", None),
        ("/cluster/orders.milepost", "gfs2"),
        ("/cluster/two/orders.milepost", "ocfs2"),
        ("/wsl/orders.milepost", "drvfs"),
        ("/mnt/ü/orders.milepost", "nfs"),
        ("/mnt/a\u2028b\x0c\x1c\x85c\rd/orders.milepost", "nfs4"),
        ("/mnt/tab\tline\nback\\slash/orders.milepost", "nfs"),
    ],
)
def test_a_network_file_system_is_known_by_its_mount(tmp_path: Path, path: str, kind: str | None) -> None:
    """The innermost mount decides."""
    mounts = tmp_path / "mounts"
    mounts.write_bytes(MOUNTS.encode())
    assert remote_kind(path, str(mounts)) == kind


def test_nothing_is_known_where_there_is_no_list_of_mounts(tmp_path: Path) -> None:
    """Elsewhere than on Linux."""
    assert remote_kind("/home/orders.milepost", str(tmp_path / "missing")) is None


def test_a_list_of_mounts_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    """As when too many files are open: nobody may take that for a local disk."""
    with pytest.raises(OSError, match="Is a directory"):
        remote_kind("/home/orders.milepost", str(tmp_path))


def test_a_store_on_a_network_file_system_warns_and_works(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it is opened; reading it does not warn."""
    monkeypatch.setattr(files, "remote_kind", lambda path: "nfs4")
    with pytest.warns(MilepostWarning, match="nfs4") as caught:
        store = CheckpointStore(path)  # warns
    assert [_line(warning) for warning in caught] == ["store = CheckpointStore(path)  # warns"]
    with store:
        store.append_many(chain(3))
    with CheckpointStore.open_readonly(path) as store:
        assert list(store.history()) == chain(3)


@pytest.mark.parametrize("action", ["always", "error"])
def test_a_wal_that_a_long_reader_lets_grow_is_warned_of_once(path: Path, action: str) -> None:
    """Every append is there and acknowledged, also where warnings are errors; afterwards the WAL is short again."""
    with CheckpointStore(path, durability="normal") as store:
        wal(store).write_back_pages, wal(store).long_pages = 20, 200
        store.append(entry(1))
        reader = long_reader(path, 1)
        with warnings.catch_warnings(record=action == "always") as caught:
            warnings.simplefilter(action, MilepostWarning)  # type: ignore[arg-type]
            for sequence in range(2, 102):
                assert store.append(entry(sequence)).position == sequence
        if caught is not None:
            assert [type(warning.message) for warning in caught] == [MilepostWarning]
            assert "-wal file has grown" in str(caught[0].message)
        grown = path.with_name(f"{path.name}-wal").stat().st_size
        assert grown > 200 * 2048
        reader.close()
        for sequence in range(102, 202):
            store.append(entry(sequence))
        assert path.with_name(f"{path.name}-wal").stat().st_size <= grown + 40 * 2072
        assert store.verify().ok


def test_a_wal_that_has_grown_long_is_told_with_its_size(path: Path) -> None:
    """As `ls` would tell it; and no second time."""
    with CheckpointStore(path, durability="normal") as store:
        wal(store).long_pages = 200
        store.append(entry(1))
        reader = long_reader(path, 1)
        wal(store).write_back_pages = 20
        with pytest.warns(MilepostWarning, match="-wal file has grown to 3.55 MB"), store.transaction() as connection:
            connection.execute("CREATE TABLE sink (value BLOB); INSERT INTO sink VALUES (zeroblob(3500000))")
        with warnings.catch_warnings(record=True) as again:
            warnings.simplefilter("always")
            with store.transaction() as connection:
                connection.execute("INSERT INTO sink VALUES (zeroblob(3500000))")
        assert again == []
        reader.close()


def test_a_long_wal_that_no_reader_holds_back_is_not_warned_of(path: Path) -> None:
    """A large block makes it long, and all of it is written back at once."""
    with CheckpointStore(path, durability="normal") as store:
        wal(store).write_back_pages, wal(store).long_pages = 20, 200
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            with store.transaction() as connection:
                connection.execute("CREATE TABLE sink (value BLOB); INSERT INTO sink VALUES (zeroblob(3500000))")
        assert path.with_name(f"{path.name}-wal").stat().st_size > 200 * 2048
        assert caught == []


def test_a_long_reader_does_not_make_every_append_write_back(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is tried again after as many pages as the first time."""
    calls = modes_of_write_backs(monkeypatch)
    with CheckpointStore(path, durability="normal") as store:
        wal(store).write_back_pages = 20
        store.append(entry(1))
        reader = long_reader(path, 1)
        for sequence in range(2, 102):
            store.append(entry(sequence))
        reader.close()
    assert 5 <= calls.count(apsw.SQLITE_CHECKPOINT_PASSIVE) <= 12


def test_a_wal_that_is_written_back_in_order_is_not_complained_of(path: Path) -> None:
    """However often."""
    with warnings.catch_warnings(record=True) as caught, CheckpointStore(path, durability="normal") as store:
        warnings.simplefilter("always")
        wal(store).write_back_pages = 20
        for sequence in range(1, 101):
            store.append(entry(sequence))
        assert (wal(store).frames() or (999, 0))[0] < 100  # it has begun anew
    assert caught == []


def test_a_wal_that_a_neighbour_is_writing_back_just_now_keeps_nobody_from_anything(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite does not tell then how long it is: what was committed is acknowledged, and a store can be opened."""

    def busy(self: LentConnection, *, mode: int) -> tuple[int, int]:
        raise apsw.BusyError

    monkeypatch.setattr(LentConnection, "wal_checkpoint", busy)
    with CheckpointStore(path) as store:
        assert store.append(entry(1)).position == 1
        with store.transaction():
            store.append(entry(2))
        assert wal(store).frames() is None
        with CheckpointStore(path) as other:
            assert other.append(entry(3)).position == 3


def _left_by_a_kill(path: Path, appends: int) -> tuple[bytearray, list[int]]:
    """The WAL of a store that was killed after so many appends, and where in it each of their commits begins."""
    original = path.with_name("original")
    ends = []
    with CheckpointStore(original) as store:
        for sequence in range(1, appends + 1):
            ends.append(32 + (wal(store).frames() or (0, 0))[0] * 2072)
            store.append(entry(sequence))
        for suffix in ("", "-wal"):
            shutil.copyfile(f"{original}{suffix}", f"{path}{suffix}")
    return bytearray(path.with_name(f"{path.name}-wal").read_bytes()), ends


@pytest.mark.parametrize("damaged", range(12))
def test_a_rotten_commit_in_the_wal_is_told_if_another_follows(path: Path, damaged: int) -> None:
    """Promise C9: SQLite drops it, and all that follow, without a word; the last may have been torn by a loss of power."""
    content, begins = _left_by_a_kill(path, 12)
    content[begins[damaged] + 24 + 100] ^= 1  # in its first page
    path.with_name(f"{path.name}-wal").write_bytes(content)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with CheckpointStore(path) as store:
            assert len(store) == damaged
            store.append(entry(damaged + 1))
            assert store.verify().ok
    told = [str(warning.message) for warning in caught if isinstance(warning.message, MilepostWarning)]
    assert [f"holds {12 - damaged} commits that cannot be read" in text for text in told] == [True] * (damaged < 11)


@pytest.mark.parametrize("checksum", [bytes(8), b"\xff" * 8], ids=["less", "more"])
def test_a_wal_whose_header_a_kill_has_left_half_written_is_not_complained_of(path: Path, checksum: bytes) -> None:
    """It is the first to be written of a round: what stands behind it is of an earlier one, and written back."""
    content, _ = _left_by_a_kill(path, 3)
    content[24:32] = checksum
    path.with_name(f"{path.name}-wal").write_bytes(content)
    assert unread_commits(f"{path}-wal", None, 0) == 0
    with CheckpointStore(path) as store:
        assert len(store) == 0


def _unread(path: Path, content: bytes | None = None) -> list[str]:
    """What is told of a WAL, or of the one that is there, as its store is opened, with the file of whoever opens it."""
    if content is not None:
        path.with_name(f"{path.name}-wal").write_bytes(content)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        CheckpointStore(path).close()  # opens
    assert {_line(warning) for warning in caught} <= {"CheckpointStore(path).close()  # opens"}
    return [str(warning.message) for warning in caught]


def _line(warning: warnings.WarningMessage) -> str:
    """The line that a warning points at: that of who opens the store, not one of milepost's own."""
    return linecache.getline(warning.filename, warning.lineno).strip()


def test_a_commit_at_the_very_end_of_the_wal_is_counted_if_all_of_it_is_there(path: Path) -> None:
    """A WAL that did not grow ahead ends with its last frame."""
    content, begins = _left_by_a_kill(path, 12)
    content[begins[3] + 24 + 100] ^= 1
    last = max(at for at in range(32, len(content), 2072) if any(content[at : at + 24]))
    for end, unread in ((last + 2072, 9), (last + 2071, 8)):
        [told] = _unread(path, bytes(content[:end]))
        assert f"holds {unread} commits that cannot be read" in told


def test_a_wal_that_a_machine_of_the_other_byte_order_has_begun_is_looked_through_too(path: Path) -> None:
    """Its header has another checksum; SQLite takes no frame of it whose checksums are not of that order."""
    content, _ = _left_by_a_kill(path, 12)
    assert content[:4] == (0x377F0682).to_bytes(4, "big")
    content[3] |= 1
    content[24:32] = checksum = _big_endian_checksum(content[:24], bytes(8))
    for at in range(32, len(content) - 2071, 2072):
        checksum = _big_endian_checksum(content[at : at + 8] + content[at + 24 : at + 2072], checksum)
        content[at + 16 : at + 24] = checksum
    content[32 + 100] ^= 1
    [told] = _unread(path, bytes(content))
    assert "holds 12 commits that cannot be read" in told


def _big_endian_checksum(data: bytes | bytearray, before: bytes) -> bytes:
    one, other = int.from_bytes(before[:4], "big"), int.from_bytes(before[4:], "big")
    for at in range(0, len(data), 8):
        one = (one + int.from_bytes(data[at : at + 4], "big") + other) % 2**32
        other = (other + int.from_bytes(data[at + 4 : at + 8], "big") + one) % 2**32
    return one.to_bytes(4, "big") + other.to_bytes(4, "big")


@pytest.mark.parametrize("at", [20, 24 + 100], ids=["checksum", "page"])
def test_a_commits_last_frame_may_be_what_is_rotten(path: Path, at: int) -> None:
    """Its checksum, which the next commit was to continue, or what that checksum is of."""
    content, begins = _left_by_a_kill(path, 12)
    content[begins[11] - 2072 + at] ^= 1
    [told] = _unread(path, bytes(content))
    assert "holds 2 commits that cannot be read" in told


@pytest.mark.parametrize("now", [(99, 0), (0, 0), None], ids=["goes on", "begins anew", "is writing back"])
def test_a_wal_that_a_neighbour_goes_on_with_meanwhile_is_not_complained_of(
    path: Path, monkeypatch: pytest.MonkeyPatch, now: tuple[int, int] | None
) -> None:
    """What stood behind its end before it came may be what it has just written."""
    content, begins = _left_by_a_kill(path, 12)
    content[begins[3] + 24 + 100] ^= 1
    frames = Wal.frames

    def first_as_it_was(self: Wal) -> tuple[int, int] | None:
        monkeypatch.setattr(Wal, "frames", lambda self: now)
        return frames(self)

    monkeypatch.setattr(Wal, "frames", first_as_it_was)
    assert _unread(path, bytes(content)) == []


def _broken_off(path: Path, appends: int = 1) -> None:
    """A commit stands in the WAL whose writer never came to the end of its sync."""

    def fail(call: Call) -> None:
        if call.method == "xSync" and call.path.endswith("-wal") and armed:
            raise apsw.IOError

    armed: list[bool] = []
    with hooked(fail) as vfs, CheckpointStore(path, vfs=vfs) as store:
        armed.append(True)
        first = len(store) + 1
        with pytest.raises(MilepostError):
            store.append_many([entry(number) for number in range(first, first + appends)])


def test_long_commits_that_were_broken_off_are_not_taken_for_lost_ones(path: Path) -> None:
    """Writers are killed within their syncs, while another process keeps the WAL's index, and a short commit comes next."""
    with CheckpointStore(path) as store:
        store.append(entry(1))
        reader = apsw.Connection(str(path))
        reader.execute("SELECT 1 FROM entry").fetchall()
    for appends in (200, 60, 20):
        _broken_off(path, appends)
        with CheckpointStore(path) as store:
            store.append(entry(len(store) + 1))
        assert _unread(path) == []
    reader.close()


@pytest.mark.parametrize("before", [0, 1, 12])
def test_a_commit_that_litestream_may_have_shipped_alone_is_told(path: Path, before: int) -> None:
    """Another process keeps SQLite's index of the WAL alive, as Litestream does: so nobody takes the commit in."""
    with CheckpointStore(path) as store:
        with store.transaction() as connection:
            connection.execute("CREATE TABLE _litestream_seq (id INTEGER PRIMARY KEY, seq INTEGER)")
        reader = apsw.Connection(str(path))
        reader.execute("SELECT 1 FROM _litestream_seq").fetchall()
        store.append_many(chain(before))
    assert path.with_name(f"{path.name}-wal").stat().st_size
    assert _unread(path) == []  # of a clean end
    _broken_off(path)
    [told] = _unread(path)
    assert "Litestream may have shipped it" in told
    with pytest.warns(MilepostWarning, match="litestream reset"):
        store = CheckpointStore(path)
    with store:
        assert len(store) == before
        store.append(entry(before + 1))
    assert _unread(path) == []  # another commit is in its place
    reader.close()


def test_a_commit_that_is_broken_off_is_told_beside_litestream_alone(path: Path) -> None:
    """Nobody else reads what SQLite does not read."""
    CheckpointStore(path).close()
    reader = apsw.Connection(str(path))
    reader.execute("SELECT 1 FROM entry").fetchall()
    _broken_off(path)
    assert _unread(path) == []
    reader.close()


def test_a_whole_wal_is_not_complained_of(path: Path) -> None:
    """Nor one that has begun anew, with what is left of an earlier round behind it."""
    _left_by_a_kill(path, 12)
    with CheckpointStore(path) as store:
        assert len(store) == 12
    with CheckpointStore(path) as store:
        wal(store).write_back_pages = 20
        for sequence in range(13, 60):
            store.append(entry(sequence))
        left = path.with_name("left")
        for suffix in ("", "-wal"):
            shutil.copyfile(f"{path}{suffix}", f"{left}{suffix}")
    with CheckpointStore(left) as store:
        assert len(store) == 59

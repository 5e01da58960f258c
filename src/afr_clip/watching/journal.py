"""What was inspected and what each sink has got, in an SQLite file that survives a kill at any moment."""

import json
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from afr_clip.files import counted, for_shell, shown

SCHEMA = """
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS files (path BLOB PRIMARY KEY, size INTEGER, mtime_ns INTEGER) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS seen (id BLOB PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS records (number INTEGER PRIMARY KEY AUTOINCREMENT, content TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS sinks (name TEXT PRIMARY KEY, number INTEGER NOT NULL, state TEXT NOT NULL);
"""

FORMAT = "afr-clip-watch-1"


class JournalError(ValueError):
    """A journal cannot be used."""


@dataclass(frozen=True)
class Stat:
    """By which a file that was inspected is known without reading it again."""

    size: int
    mtime_ns: int


class Journal:
    """The records of photographs, until every sink has them; several threads may use it.

    A photograph is recorded together with what its file looked like, in one transaction, so it is inspected again or
    delivered to every sink, and never half of it. Sinks read the records in order, each at its own pace.

    Args:
        path: The file; made if it is not there.
        folder: The photographs it is about.

    Raises:
        JournalError: If another process uses it, or it is about another folder.
    """

    def __init__(self, path: Path, folder: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._process = FileLock(path.with_name(f"{path.name}.lock"))
        try:
            self._process.acquire(timeout=0)
        except Timeout as error:
            msg = f"{shown(path)} is used by another afr-clip watch. End that one, or choose another --out."
            raise JournalError(msg) from error
        self._lock = threading.Lock()
        try:
            self._database = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
            self._database.execute("PRAGMA journal_mode=WAL")
            self._database.execute("PRAGMA synchronous=FULL")  # a power cut takes nothing that was committed
            self._database.executescript(SCHEMA)
            self._require("format", FORMAT)
            self._require("folder", str(folder.resolve()))
        except sqlite3.DatabaseError as error:
            self._process.release()
            msg = f"{shown(path)} is not a journal of afr-clip watch: {error}. Choose another --out."
            raise JournalError(msg) from error
        except JournalError:
            self.close()
            raise

    def _require(self, name: str, value: str) -> None:
        with self._transaction() as database:
            database.execute("INSERT OR IGNORE INTO facts VALUES (?, ?)", (name, value))
            (found,) = database.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        if found != value:
            msg = f"The journal has {name} {shown(found)}, got {shown(value)}. Choose another --out."
            raise JournalError(msg)

    @contextmanager
    def _used(self) -> Iterator[sqlite3.Connection]:
        """Let one thread use the database, and turn its errors into sentences."""
        with self._lock:
            try:
                yield self._database
            except sqlite3.Error as error:
                msg = f"{shown(self._path)} cannot be used: {error}. What it holds is complete; start again."
                raise JournalError(msg) from error

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._used() as database:
            database.execute("BEGIN IMMEDIATE")
            try:
                yield database
                database.execute("COMMIT")
            except BaseException:
                if database.in_transaction:
                    database.execute("ROLLBACK")
                raise

    def files(self) -> dict[bytes, Stat]:
        """Return the files that were inspected and are still there, as far as is known."""
        with self._used() as database:
            rows = database.execute("SELECT path, size, mtime_ns FROM files").fetchall()
        return {path: Stat(size, mtime_ns) for path, size, mtime_ns in rows}

    def forget(self, paths: Iterable[bytes]) -> None:
        """Forget files that are gone; their photographs stay known by their ids."""
        with self._transaction() as database:
            database.executemany("DELETE FROM files WHERE path = ?", ((path,) for path in paths))

    def has(self, key: str) -> bool:
        """Whether a photograph was inspected."""
        with self._used() as database:
            found = database.execute("SELECT 1 FROM seen WHERE id = ?", (bytes.fromhex(key),)).fetchone()
        return found is not None

    def record(self, inspected: Sequence[tuple[bytes, Stat, Mapping[str, Any] | None]]) -> None:
        """Record photographs: path, state of the file, and the record, or ``None`` if the content was known."""
        with self._transaction() as database:
            for path, stat, content in inspected:
                database.execute("REPLACE INTO files VALUES (?, ?, ?)", (path, stat.size, stat.mtime_ns))
                if content is None:
                    continue
                known = database.execute("INSERT OR IGNORE INTO seen VALUES (?)", (bytes.fromhex(content["id"]),))
                if known.rowcount:  # two files of a batch cannot share an id, since it names the path
                    text = json.dumps(content, ensure_ascii=False)
                    database.execute("INSERT INTO records (content) VALUES (?)", (text,))

    def join(self, sink: str, state: Mapping[str, Any]) -> None:
        """Let a sink get what is recorded from now on, unless it is known already."""
        with self._transaction() as database:
            # The records that all sinks have are gone, but the counter stays.
            row = database.execute("SELECT seq FROM sqlite_sequence WHERE name = 'records'").fetchone()
            last = 0 if row is None else row[0]
            database.execute("INSERT OR IGNORE INTO sinks VALUES (?, ?, ?)", (sink, last, json.dumps(state)))

    def leave(self, staying: Sequence[str], dropped: Sequence[str]) -> None:
        """Forget the sinks that are not named, so that no records are kept for them.

        Args:
            dropped: Sinks that are forgotten even if they have not got everything.

        Raises:
            JournalError: If another one has not got everything, or one of them stays.
        """
        if both := [name for name in dropped if name in staying]:
            msg = f"--drop-sink {both[0]} is a sink of this command. Leave out the sink, or --drop-sink."
            raise JournalError(msg)
        left = {name: number for name, number in self.num_pending().items() if name not in staying}
        for name, number in left.items():
            if number and name not in dropped:
                msg = (
                    f"{name} still has {counted(number, 'record')} to receive, and this command does not name it. "
                    f"Name it again, or write --drop-sink {for_shell(name)} to lose them."
                )
                raise JournalError(msg)
        with self._transaction() as database:
            database.executemany("DELETE FROM sinks WHERE name = ?", ((name,) for name in left))

    def pending(self, sink: str, most: int) -> tuple[int, list[str], dict[str, Any]]:
        """Return what a sink gets next: the number of the last of them, their JSON, and the sink's state."""
        with self._used() as database:
            number, state = database.execute("SELECT number, state FROM sinks WHERE name = ?", (sink,)).fetchone()
            rows = database.execute(
                "SELECT number, content FROM records WHERE number > ? ORDER BY number LIMIT ?", (number, most)
            ).fetchall()
        return (rows[-1][0] if rows else number), [content for _, content in rows], json.loads(state)

    def delivered(self, sink: str, number: int, state: Mapping[str, Any]) -> None:
        """Note that a sink has everything up to a record, and drop the records that all have."""
        with self._transaction() as database:
            database.execute("UPDATE sinks SET number = ?, state = ? WHERE name = ?", (number, json.dumps(state), sink))
            database.execute("DELETE FROM records WHERE number <= (SELECT min(number) FROM sinks)")

    def num_pending(self) -> dict[str, int]:
        """Count for each sink the records that it has not got."""
        with self._used() as database:
            rows = database.execute(
                "SELECT name, (SELECT count(*) FROM records WHERE records.number > sinks.number) FROM sinks"
            ).fetchall()
        return dict(rows)

    def close(self) -> None:
        """Close the file and let other processes use it."""
        with self._lock:
            self._database.close()
        self._process.release()

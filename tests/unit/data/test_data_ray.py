"""The same plan on a Ray cluster of two nodes ends in the same bytes as on this machine."""

import json
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from headrace.data import execute
from headrace.data.plan import Plan, Source, units
from headrace.data.prepare import prepare
from headrace.errors import DataError
from headrace.tokens import train_bpe

ray = pytest.importorskip("ray")
pytestmark = [
    pytest.mark.slow,  # a cluster takes half a minute to start
    pytest.mark.filterwarnings("ignore"),  # Ray's own, about its future defaults
]


@pytest.fixture
def cluster() -> Iterator[str]:
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        made.add_node(num_cpus=1)
        made.wait_for_nodes()
        ray.init(address=made.address, log_to_driver=False)
        yield str(made.address)
    finally:
        ray.shutdown()
        made.shutdown()


def test_two_nodes_make_the_same_bytes(cluster: str, tmp_path: Path) -> None:
    assert len([node for node in ray.nodes() if node["Alive"]]) == 2
    rng = random.Random(0)
    words = [f"w{number}" for number in range(300)]
    texts = [" ".join(rng.choices(words, k=80)) for _ in range(120)]
    texts += texts[:10]
    for number in range(6):
        lines = [json.dumps({"text": text}) for text in texts[number::6]]
        (tmp_path / f"{number}.jsonl").write_text("\n".join(lines))
    train_bpe(texts, vocab_size=400, special_tokens=["<end>"], eos="<end>").save(tmp_path / "tok")
    source = Source(name="here", path=tmp_path, licence="CC0-1.0")
    plan = Plan(sources=(source,), tokenizer=tmp_path / "tok", unit_bytes=8000)
    assert len(units(plan)) > 3
    list(prepare(plan, tmp_path.parent / "local", execute.local(1)))
    list(prepare(plan, tmp_path.parent / "ray", execute.on_ray(cluster)))
    left, right = (
        {path.name: path.read_bytes() for path in (tmp_path.parent / name).iterdir()}
        for name in ("local", "ray")
    )
    assert left == right
    (tmp_path / "bad.txt.gz").write_bytes(b"no gzip")
    with pytest.raises(DataError, match=r"cannot read .*bad\.txt\.gz"):
        list(prepare(plan, tmp_path.parent / "bad", execute.on_ray(cluster)))

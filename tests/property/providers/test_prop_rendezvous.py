"""Rendezvous hashing: everybody agrees, and a replica that goes moves only its own share."""

from hypothesis import given
from hypothesis import strategies as st

from headrace.providers.balance import Member, Pool, rendezvous
from headrace.providers.load import Load
from headrace.testing import ScriptedBackend
from routed import asked

names = st.lists(st.text("abcdef", min_size=1, max_size=6), min_size=2, max_size=8, unique=True)


def pool(members: list[str]) -> Pool:
    return Pool(
        "p",
        [Member(name=name, backend=ScriptedBackend(()), load=Load()) for name in members],
        "prefix",
    )


@given(names, st.lists(st.text(max_size=20), min_size=1, max_size=20), st.data())
def test_only_the_share_of_the_one_that_left_moves(
    members: list[str], texts: list[str], data: st.DataObject
) -> None:
    gone = data.draw(st.sampled_from(members))
    rest = [name for name in members if name != gone]
    shuffled = data.draw(st.permutations(rest))
    for text in texts:
        before = pool(members).order(asked(text))[0].name
        after = pool(shuffled).order(asked(text))[0].name
        assert after == before or before == gone


def test_weights_are_shares() -> None:
    keys = [str(n).encode() for n in range(4000)]
    wins = sum(rendezvous(key, "a", 3.0) > rendezvous(key, "b", 1.0) for key in keys)
    assert 0.71 < wins / len(keys) < 0.79

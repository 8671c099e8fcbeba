"""What the side-by-side script makes of token stamps, and that its plain data hangs together."""

import pytest
from bench.contest import Job, round_from_stamps
from bench.matches import HEADRACE, MATCHES, PEERS, SERVE, SERVERS


def test_decode_counts_only_what_came_after_the_last_first_token() -> None:
    job = Job(prompts=[[1] * 10, [1] * 30], output_tokens=[3, 3], arrivals_s=[0.0, 0.0])
    made = round_from_stamps(
        job,
        began_s=[0.0, 0.0],
        times_s=[[1.0, 2.0, 3.0], [2.0, 3.0, 5.0]],
        first_s=2.0,
        total_s=5.5,
        tokens=(),
    )
    assert made.decode_tok_s == pytest.approx(3 / 3.0)  # at 3, 3 and 5; the one at 2 is no decode
    assert made.input_tok_s == pytest.approx(40 / 2.0)
    assert made.output_tok_s == pytest.approx(6 / 5.5)
    assert (made.ttft_min_s, made.ttft_median_s, made.ttft_max_s) == (1.0, 1.5, 2.0)
    assert (made.gap_median_s, made.gap_max_s) == (1.0, 2.0)


def test_a_tool_without_stamps_tells_no_gaps() -> None:
    job = Job(prompts=[[1] * 10], output_tokens=[5], arrivals_s=[0.0])
    made = round_from_stamps(job, began_s=[0.0], times_s=[], first_s=1.0, total_s=3.0, tokens=())
    assert made.decode_tok_s == pytest.approx(2.0)
    assert made.ttft_median_s is None
    assert made.gap_max_s is None


def test_one_token_has_no_decode() -> None:
    job = Job(prompts=[[1] * 10], output_tokens=[1], arrivals_s=[0.0])
    stamps = [[1.0]]
    made = round_from_stamps(
        job, began_s=[0.0], times_s=stamps, first_s=1.0, total_s=1.0, tokens=()
    )
    assert made.decode_tok_s is None
    assert made.gap_max_s is None


def test_every_match_names_contestants_there_are() -> None:
    known = {*HEADRACE, *(name + SERVE for name in HEADRACE), *PEERS, *SERVERS}
    assert not {name for names in MATCHES.values() for name in names} - known

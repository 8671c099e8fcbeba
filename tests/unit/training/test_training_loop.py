"""The loop learns, resumes bitwise from anywhere, and refuses what it cannot continue."""

import errno
import os
import signal
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import training_fixtures as fx
from headrace.errors import CheckpointError, DataError
from headrace.model.decoder import Decoder
from headrace.training import loop, state, storage
from headrace.training.log import TrainingLog
from headrace.training.optim import optimizers
from headrace.training.recipe import Resume
from headrace.training.sample import greedy


def test_the_loss_falls_and_the_model_counts(tmp_path: Path) -> None:
    decoder, reports = fx.trained(tmp_path, fx.updates(steps=120), rows_per_step=16)
    assert reports[0].loss > 3.5
    assert reports[-1].loss < 0.5
    assert greedy(decoder, [7, 8, 9], max_tokens=4, eos_ids={12}) == [10, 11, 12]
    assert [r.step for r in reports] == list(range(1, 121))
    assert reports[-1].tokens > reports[0].tokens


@pytest.mark.parametrize("stop", [1, 7, 11])
def test_an_interrupted_run_resumes_bitwise(tmp_path: Path, stop: int) -> None:
    plan = fx.updates()
    whole, reports = fx.trained(tmp_path / "whole", plan)
    fx.trained(tmp_path / "cut", plan, stop=stop)
    resumed, rest = fx.trained(tmp_path / "cut", plan, model=fx.decoder(seed=9), resume=True)
    assert fx.same(whole, resumed)
    assert [(r.step, r.loss, r.grad_norm, r.tokens) for r in rest] == [
        (r.step, r.loss, r.grad_norm, r.tokens) for r in reports[stop:]
    ]


@settings(max_examples=4, deadline=None)
@given(
    stop=st.integers(1, 14),
    optimizer=st.sampled_from(["adamw", "muon"]),
    schedule=st.sampled_from(["cosine", "linear", "wsd", "constant"]),
)
def test_it_does_from_any_step_with_any_optimizer(
    tmp_path_factory: pytest.TempPathFactory, stop: int, optimizer: str, schedule: str
) -> None:
    at = tmp_path_factory.mktemp("run")
    plan = fx.updates(steps=15, optimizer=optimizer, schedule=schedule, weight_decay=0.1)
    whole, reports = fx.trained(at / "whole", plan)
    fx.trained(at / "cut", plan, stop=stop)
    resumed, rest = fx.trained(at / "cut", plan, model=fx.decoder(seed=9), resume=True)
    assert fx.same(whole, resumed)
    assert [r.loss for r in rest] == [r.loss for r in reports[stop:]]


def test_a_finished_run_resumes_to_itself(tmp_path: Path) -> None:
    done, _ = fx.trained(tmp_path, fx.updates())
    again, reports = fx.trained(tmp_path, fx.updates(), model=fx.decoder(seed=9), resume=True)
    assert reports == []
    assert fx.same(done, again)


def test_checkpoints_are_whole_and_the_newest_two_stay(tmp_path: Path) -> None:
    fx.trained(tmp_path, fx.updates(steps=5, checkpoint_every_s=0.0))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["pretrain_000004", "pretrain_000005"]
    assert state.candidates(tmp_path, "pretrain")[0] == tmp_path / "pretrain_000005"
    assert state.candidates(tmp_path, "chat") == []


def _load_into(path: Path, decoder: Decoder, fingerprint: str = "f") -> state.Progress:
    named = dict(fx.trainee(decoder, fx.rows(1)).named_parameters())
    return state.load(path, named, optimizers(named.items(), fx.updates()), fingerprint=fingerprint)


def _load(path: Path, fingerprint: str = "f") -> state.Progress:
    return _load_into(path, fx.decoder(), fingerprint)


def test_a_checkpoint_of_something_else_is_refused(tmp_path: Path) -> None:
    fx.trained(tmp_path, fx.updates(steps=2))
    path = tmp_path / "pretrain_000002"
    assert _load(path).step == 2
    with pytest.raises(CheckpointError, match="another recipe or other data"):
        _load(path, "other")
    data = bytearray((path / "state.safetensors").read_bytes())
    data[-1] ^= 1
    (path / "state.safetensors").write_bytes(data)
    with pytest.raises(state.Damaged, match="not what was written"):
        _load(path)
    (path / "state.json").write_text("{}")
    with pytest.raises(state.Damaged, match="cannot resume"):
        _load(path)


def test_what_a_crash_damaged_is_passed_over(tmp_path: Path) -> None:
    """The checkpoint before it is as good, and the run says what happened."""
    plan = fx.updates(checkpoint_every_s=0.0)
    whole, reports = fx.trained(tmp_path / "whole", plan)
    fx.trained(tmp_path / "cut", plan, stop=7)
    newest = tmp_path / "cut" / "pretrain_000007"
    (newest / "state.safetensors").write_bytes(b"torn")
    resumed, rest = fx.trained(tmp_path / "cut", plan, model=fx.decoder(seed=9), resume=True)
    assert fx.same(whole, resumed)
    assert [r.loss for r in rest] == [r.loss for r in reports[6:]]
    assert "pretrain_000007/state.safetensors is not what was written" in rest[0].warning
    assert rest[1].warning == ""
    for path in (tmp_path / "cut").iterdir():
        (path / "state.json").unlink()
    with pytest.raises(state.Damaged):
        fx.trained(tmp_path / "cut", plan, resume=True)


def _disk_full(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_costs_a_checkpoint_and_not_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = fx.updates(checkpoint_every_s=0.0)
    whole, _ = fx.trained(tmp_path / "whole", plan)
    model, reports, at = fx.decoder(), list[loop.StepReport](), tmp_path / "full"
    for report in loop.run(fx.trainee(model, fx.rows(50)), "pretrain", plan, directory=at):
        reports.append(report)
        monkeypatch.undo()
        if 5 <= report.step <= 8:
            monkeypatch.setattr(storage, "save_file", _disk_full)
    assert [bool(r.warning) for r in reports] == [6 <= r.step <= 9 for r in reports]
    assert "No space left on device; pretrain_000004 is whole" in reports[6].warning
    assert fx.same(whole, model)
    assert sorted(p.name for p in at.iterdir()) == ["pretrain_000011", "pretrain_000012"]


def test_a_full_disk_at_the_end_is_an_error_and_the_last_good_one_loads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = fx.updates()
    whole, _ = fx.trained(tmp_path / "whole", plan)
    at = tmp_path / "cut"
    fx.trained(at, plan, stop=5)
    with monkeypatch.context() as patch:
        patch.setattr(storage, "save_file", _disk_full)
        with pytest.raises(CheckpointError, match="pretrain_000005 is whole and --resume auto"):
            fx.trained(at, plan, resume=True)
    assert [p.name for p in at.iterdir()] == ["pretrain_000005"]
    resumed, _ = fx.trained(at, plan, model=fx.decoder(seed=9), resume=True)
    assert fx.same(whole, resumed)


def test_what_to_do_with_an_earlier_run_is_asked(tmp_path: Path) -> None:
    assert not state.admit(tmp_path, Resume.ASK)
    fx.trained(tmp_path, fx.updates(steps=2))
    (tmp_path / ".pretrain_000003.partial").mkdir()
    with pytest.raises(CheckpointError, match="--resume auto goes on"):
        state.admit(tmp_path, Resume.ASK)
    assert state.admit(tmp_path, Resume.AUTO)
    assert [p.name for p in tmp_path.iterdir()] == ["pretrain_000002"]
    assert not state.admit(tmp_path, Resume.NEVER)
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_of_another_shape_is_refused(tmp_path: Path) -> None:
    fx.trained(tmp_path, fx.updates(steps=1))
    with pytest.raises(CheckpointError, match=r"lm_head\.weight is missing"):
        _load_into(tmp_path / "pretrain_000001", fx.decoder(tied=False))


def test_a_loss_that_is_no_number_is_skipped_and_then_stops_the_run(tmp_path: Path) -> None:
    decoder = fx.decoder()
    with torch.no_grad():
        decoder.norm.weight.fill_(float("nan"))
    before = {name: param.clone() for name, param in decoder.named_parameters()}
    with pytest.raises(DataError, match=r"3 steps in a row .* its loss is nan"):
        fx.trained(tmp_path, fx.updates(skip_limit=3), model=decoder)
    for name, param in decoder.named_parameters():
        assert torch.equal(param, before[name]) or name == "norm.weight"


def test_signals_raise_a_flag_and_handlers_come_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with loop.stop_on_signal() as should_stop:
        assert not should_stop()
        os.kill(os.getpid(), signal.SIGTERM)
        assert should_stop()
    assert signal.getsignal(signal.SIGTERM) is before


def test_the_log_drops_what_is_done_again(tmp_path: Path) -> None:
    log = TrainingLog(tmp_path / "log.jsonl")
    log.rewind("pretrain", 1)
    for step in (1, 2, 3):
        log.append({"stage": "pretrain", "step": step})
    log.append({"stage": "chat", "step": 9})
    log.rewind("pretrain", 2)
    assert log.path.read_text().splitlines() == [
        '{"stage": "pretrain", "step": 1}',
        '{"stage": "chat", "step": 9}',
    ]

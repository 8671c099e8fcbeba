"""`headrace route` and `headrace cache`: what they say, of what a service would do."""

import json
from pathlib import Path
from typing import Any

import pytest

from headrace.cli import main

SETTINGS = """
[model]
path = "none"
[data_classes.secret]
managed = false
[providers.api]
kind = "openai"
key = "env:NOBODY_SET_THIS"
[providers.own]
kind = "compatible"
url = "http://127.0.0.1:9"
managed = false
[routes.small]
provider = "own"
model = "qwen"
[routes.large]
provider = "api"
model = "gpt"
[routes.assist]
targets = ["small", "large"]
balance = "least-busy"
fallback = ["large"]
classifier = "made"
cache_ttl_s = 60
[[routes.assist.rules]]
name = "thanks"
label = ["smalltalk"]
answer = "With pleasure."
[[routes.assist.rules]]
name = "poor"
budget_below_usd = "1"
use = "small"
[[routes.assist.rules]]
name = "red"
team = ["red"]
use = "large"
"""
TEXTS = {
    "smalltalk": ("thanks", "thank you so much", "many thanks", "thanks a lot", "thank you"),
    "work": ("prove it", "write a function", "sum these numbers", "fix the bug", "read this"),
}


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [{"text": t, "label": label} for label, texts in TEXTS.items() for t in texts]
    (tmp_path / "labels.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    (tmp_path / "headrace.toml").write_text(SETTINGS)


def run(*words: str) -> int:
    with pytest.raises(SystemExit) as stop:
        main(words)
    return int(stop.value.code or 0)


def check(capsys: pytest.CaptureFixture[str], text: str, *words: str, **more: Any) -> Any:
    body = {"model": "assist", "messages": [{"role": "user", "content": text}], **more}
    Path("request.json").write_text(json.dumps(body))
    capsys.readouterr()
    assert run("route", "check", "request.json", "--json", *words) == 0
    return json.loads(capsys.readouterr().out)


def test_train_then_check(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("route", "train", "labels.jsonl", "--out", "made") == 0
    out = capsys.readouterr().out
    assert "accuracy" in out
    assert "smalltalk" in out

    said = check(capsys, "thanks, thank you!")
    assert (said["action"], said["text"], said["rule"]) == ("answer", "With pleasure.", "thanks")

    said = check(capsys, "read this function", temperature=0)
    assert (said["action"], said["name"], said["rule"]) == ("use", "assist", "")
    assert said["way"] == "least-busy of small, large; then large"
    assert [item["why"] for item in said["passed_over"]][1:] == [
        "no budget of the caller is known",
        "team is ''",
    ]
    assert said["cache"] == "asked; answers are kept 60 s"
    assert [model["forbidden"] for model in said["models"]] == ["", ""]

    said = check(capsys, "read this function", "--budget-left", "0.99", "--data-class", "secret")
    assert (said["name"], said["rule"]) == ("small", "poor")
    assert said["cache"] == "not asked: temperature is 1 and there is no seed"

    said = check(capsys, "read this", "--team", "red", "--data-class", "secret")
    assert said["models"][0]["forbidden"].startswith("the data class 'secret' may not go to a man")

    assert run("route", "check", "request.json") == 0
    assert "assist: the request uses assist (no rule matches" in capsys.readouterr().out


def test_rules_see_the_default_data_class_as_a_service_does(
    capsys: pytest.CaptureFixture[str],
) -> None:
    settings = Path("headrace.toml")
    rule = '[[routes.large.rules]]\nname = "inner"\ndata_class = ["internal"]\nuse = "small"\n'
    classes = '[data_classes.internal]\n[routing]\ndefault_data_class = "internal"\n'
    settings.write_text(settings.read_text().replace('classifier = "made"', "") + rule + classes)
    settings.write_text(settings.read_text().replace('label = ["smalltalk"]', 'text = "thanks"'))
    request = {"model": "large", "messages": [{"role": "user", "content": "x"}]}
    Path("request.json").write_text(json.dumps(request))
    assert run("route", "check", "request.json") == 0
    assert "uses small (rule 'inner'" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--data-class", "top"), "the data class 'top' is not known here"),
        (("--budget-left", "much"), "'much' is not an amount of dollars"),
    ],
)
def test_what_cannot_be_checked(
    capsys: pytest.CaptureFixture[str], words: tuple[str, ...], said: str
) -> None:
    assert run("route", "train", "labels.jsonl", "--out", "made") == 0
    Path("request.json").write_text(
        json.dumps({"model": "assist", "messages": [{"role": "user", "content": "x"}]})
    )
    assert run("route", "check", "request.json", *words) == 2
    assert said in capsys.readouterr().err


def test_a_classifier_that_is_not_there_says_how_to_make_one(
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path("request.json").write_text(
        json.dumps({"model": "assist", "messages": [{"role": "user", "content": "x"}]})
    )
    assert run("route", "check", "request.json") == 2
    assert "routes.assist.classifier: made has no classifier" in capsys.readouterr().err


def test_cache_clear_wants_to_know_whose(capsys: pytest.CaptureFixture[str]) -> None:
    store = f"store.url=sqlite:///{Path('headrace.db').absolute()}"
    assert run("--set", store, "cache", "clear") == 2
    assert "--all" in capsys.readouterr().err
    assert run("--set", store, "cache", "clear", "--all", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"forgotten": 0}

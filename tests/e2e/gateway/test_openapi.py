"""The OpenAPI document is true: schemathesis finds no 5xx and no violation over the whole API.

What it makes up is drawn from the document itself: bodies that fit it and bodies that do not, each
at its edges, with and without a key, methods that are not there. Its only check that is left out
asks that whatever fits a schema be accepted: a tool's result must answer an earlier call, and no
schema says that. The only thing that is added to the document is the name of the model served.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from headrace.config import process_environment
from service import call
from whole_gateway import Whole, serving_all

NOT_ASKED = "positive_data_acceptance"


def document(whole: Whole) -> dict[str, Any]:
    status, text = call(whole.url + "/openapi.json")
    assert status == 200
    return json.loads(text)


def name_model(part: Any) -> None:
    """Wherever a request names a model, let it be the one that is served."""
    if isinstance(part, dict):
        properties = part.get("properties", {})
        if isinstance(properties, dict) and properties.get("model", {}).get("maxLength") == 256:
            properties["model"] = {"const": "m"}
        for inner in part.values():
            name_model(inner)
    elif isinstance(part, list):
        for inner in part:
            name_model(inner)


def schemathesis(directory: Path, *arguments: str, timeout_s: float) -> None:
    with serving_all(directory) as whole:
        found = document(whole)
        name_model(found["paths"])
        (directory / "openapi.json").write_text(json.dumps(found))
        done = subprocess.run(
            [
                *(sys.executable, "-m", "schemathesis.cli", "run", "openapi.json"),
                *("--url", whole.url, "--header", f"Authorization: Bearer {whole.key}"),
                *("--exclude-checks", NOT_ASKED, "--warnings", "off", "--no-color"),
                *("--suppress-health-check", "all", "--continue-on-failure"),
                *arguments,
            ],
            cwd=directory,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            env=process_environment(PYTHONPATH="", SCHEMATHESIS_HOOKS=""),
            check=False,
        )
        assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
        assert f"{len(operations(found))} selected" in done.stdout
        headers = {"authorization": f"Bearer {whole.key}"}
        assert call(whole.url + "/v1/models", headers=headers)[0] == 200  # the key was not revoked


def operations(found: dict[str, Any]) -> list[dict[str, Any]]:
    return [operation for path in found["paths"].values() for operation in path.values()]


def test_schemathesis_finds_nothing(tmp_path: Path) -> None:
    schemathesis(
        tmp_path,
        *("--phases", "fuzzing", "--max-examples", "2", "--max-time", "9", "--seed", "7"),
        timeout_s=120,
    )


@pytest.mark.slow
def test_schemathesis_finds_nothing_in_minutes(tmp_path: Path) -> None:
    schemathesis(tmp_path, "--max-examples", "150", "--max-time", "900", timeout_s=1500)

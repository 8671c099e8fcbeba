"""The speed pages say what the kept results say: whoever keeps a result writes its page too."""

import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[2] / "bench"


@pytest.mark.parametrize("script", ["report.py", "report_proxies.py"])
def test_page_is_what_its_results_make(script: str) -> None:
    done = subprocess.run(
        [sys.executable, str(BENCH / script), "--check"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr

"""What the first second of a newcomer depends on: light imports, a quick `--help`."""

import subprocess
import sys

LIGHT = (
    "headrace",
    "headrace.types",
    "headrace.config",
    "headrace.tokens",
    "headrace.gateway.asgi",
    "headrace.engine.client",
    "headrace.engine.chat",
    "headrace.console.pages",
    "headrace.app",
    "headrace.cli",
)


def test_the_http_process_loads_no_torch() -> None:
    code = (
        f"import sys, importlib\nfor name in {LIGHT!r}: importlib.import_module(name)\n"
        "print([m for m in ('torch', 'safetensors', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_help_loads_next_to_nothing() -> None:
    code = (
        "import sys\nsys.argv = ['headrace', '--help']\n"
        "from headrace.cli import main\n"
        "try: main()\nexcept SystemExit: pass\n"
        "heavy = ('torch', 'numpy', 'aiohttp', 'starlette', 'uvicorn', 'tokenizers', 'msgspec')\n"
        "print([m for m in heavy if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
    assert "serve" in done.stdout

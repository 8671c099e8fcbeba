"""A directory or a Hugging Face hub id (`owner/name`, `owner/name@revision`) → a local directory.

Invariant: a directory that exists is used as it is and nothing is fetched; of a hub repository only
safetensors, tokenizer and JSON files come, never pickles or code. Loads no torch.
"""

import re
from pathlib import Path

from headrace.errors import CheckpointError, MissingExtra
from headrace.model.fingerprint import SUMS

_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*(@[\w./-]+)?")
_WANTED = [
    "*.safetensors",
    "*.json",
    "*.jinja",
    "*.model",
    "*.tiktoken",
    "merges.txt",
    "vocab.txt",
    SUMS,
]


def resolve(name_or_path: str | Path) -> Path:
    """Find a checkpoint, fetching it from the hub on first use.

    Raises:
        CheckpointError: Neither a directory nor a hub id that can be had; says which and why.
        MissingExtra: A hub id, and `huggingface-hub` is not installed.
    """
    path = Path(name_or_path).expanduser()
    if path.is_dir():
        return path
    if path.exists():
        raise CheckpointError(f"{path} is a file; give the checkpoint's directory, {path.parent}")
    name = str(name_or_path)
    if not _HUB_ID.fullmatch(name):
        raise CheckpointError(
            f"{name}: no such directory, and not a hub id either (owner/name); check the path"
        )
    return _fetch(name)


def _fetch(name: str) -> Path:
    try:
        from huggingface_hub import errors, snapshot_download
    except ImportError as error:
        raise MissingExtra(
            f"{name} is no local directory, and fetching it from the hub needs an extra: "
            "pip install 'headrace[hub]'"
        ) from error
    repo, _, revision = name.partition("@")
    try:
        return Path(snapshot_download(repo, revision=revision or None, allow_patterns=_WANTED))
    except errors.GatedRepoError as error:
        raise CheckpointError(
            f"{name} is gated; accept its licence on huggingface.co, then `hf auth login`"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise CheckpointError(f"{repo} on the hub has no revision {revision!r}") from error
    except errors.RepositoryNotFoundError as error:
        raise CheckpointError(
            f"{name}: no such directory here and no such repository on the hub; check the name, "
            "or `hf auth login` if it is private"
        ) from error
    except errors.HFValidationError as error:
        raise CheckpointError(f"{name}: no such directory, and not a hub id either") from error
    except errors.HfHubHTTPError as error:
        raise CheckpointError(f"{name}: the hub refused: {error}") from error
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled, OSError) as error:
        raise CheckpointError(
            f"{name} is not in the local hub cache and the hub cannot be reached; connect once, "
            "or give a checkpoint directory"
        ) from error

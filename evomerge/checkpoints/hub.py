"""Fetch model folders from the Hugging Face Hub into its cache."""

from __future__ import annotations

from pathlib import Path

from evomerge.errors import ModelError

# No pickles, and nothing from subfolders: they hold other formats of the same weights.
_WANTED = ["*.safetensors", "*.json", "tokenizer.model", "*.jinja", "*.txt"]
_UNWANTED = ["*/*", "consolidated*.safetensors"]


def fetch(repository: str, revision: str | None, *, missing_folder: Path) -> Path:
    """Return the cached snapshot of a Hub repository, downloading what it lacks.

    `HF_HOME`, `HF_TOKEN` and `HF_HUB_OFFLINE` are honoured.

    Args:
        repository: `org/name`.
        revision: A branch, tag or commit; the default branch if `None`.
        missing_folder: Where a local folder of that name would have been; for the message.

    Raises:
        ModelError: The snapshot cannot be had, or only in part.
    """
    # Imported here because it takes most of a second, and local models do without.
    from huggingface_hub import constants, snapshot_download

    try:
        return Path(
            snapshot_download(
                repository,
                revision=revision,
                allow_patterns=_WANTED,
                ignore_patterns=_UNWANTED,
                local_files_only=constants.HF_HUB_OFFLINE,
            )
        )
    except Exception as error:  # the client lets out errors of the libraries below it
        name = repository if revision is None else f"{repository}@{revision}"
        raise ModelError(
            f"{name}: {_explain(error, repository)}; nor is there a folder {missing_folder}."
        ) from error


def _explain(error: Exception, repository: str) -> str:
    """Say in one line what went wrong and what to do."""
    from huggingface_hub import constants, errors

    # Gated is a kind of not found and incomplete a kind of not cached, so they come first.
    explanations: tuple[tuple[type[Exception], str], ...] = (
        (
            errors.GatedRepoError,
            "the Hub repository is gated; ask for access on its page, then run 'hf auth login'",
        ),
        (
            errors.RepositoryNotFoundError,
            "no such Hub repository, or a private one; check the name, or run 'hf auth login'",
        ),
        (
            errors.RevisionNotFoundError,
            "the Hub repository has no such revision; name a branch, tag or commit of it",
        ),
        (errors.HFValidationError, "not a valid Hub id; expected org/name"),
        (
            errors.IncompleteSnapshotError,
            f"the cached snapshot is incomplete ({_first_line(error)}); go online and run again",
        ),
    )
    for kind, explanation in explanations:
        if isinstance(error, kind):
            return explanation
    if constants.HF_HUB_OFFLINE:
        return (
            f"not in {constants.HF_HUB_CACHE} and HF_HUB_OFFLINE is set; unset it, or run "
            f"'hf download {repository}' where there is a network"
        )
    return (
        f"the Hub cannot be reached ({type(error).__name__}: {_first_line(error)}); "
        "check the network and run again"
    )


def _first_line(error: Exception) -> str:
    return next((line.strip().rstrip(".") for line in str(error).splitlines() if line.strip()), "")

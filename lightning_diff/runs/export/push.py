"""An exported folder pushed to the hub."""

import re
from pathlib import Path
from typing import Any

from ...foundation.errors import UserError
from ...foundation.extras import required

REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def ready(repository: str) -> Any:
    """The hub's interface with this person's token: asked for before anything is written.

    Args:
        repository: "user/name".

    Raises:
        UserError: no such name, no library, or no token.
    """
    if not REPOSITORY.fullmatch(repository):
        raise UserError(f"--push: expected user/name, a model on the hub, got {repository!r}")
    hub = required("huggingface_hub", "export: --push")
    token = hub.get_token()
    if not token:
        raise UserError("--push: there is no token; set HF_TOKEN, or run `hf auth login` once")
    return hub.HfApi(token=token)


def folder(hub: Any, repository: str, path: Path) -> str:
    """Push a folder, into a repository that is made where it is missing; returns its address.

    Args:
        hub: as `ready` gives it.
        repository: "user/name".
        path: of the folder.

    Raises:
        UserError: the hub cannot be reached, or refuses.
    """
    try:
        hub.create_repo(repository, repo_type="model", exist_ok=True)
        hub.upload_folder(repo_id=repository, folder_path=path, commit_message="Export by lightning_diff")
    except Exception as error:  # what a network's absence is called depends on the version of three libraries
        reason = " ".join(str(error).split())[:160]
        raise UserError(
            f"--push: {repository}: the hub cannot be reached or refuses ({type(error).__name__}: {reason}); "
            f"the folder is whole in {path}: push it with `hf upload {repository} {path}`"
        ) from error
    return f"https://huggingface.co/{repository}"

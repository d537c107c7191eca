"""Folders by their name on the hub (`owner/name`), fetched by huggingface_hub: configs, safetensors and tokenizers alone."""

import re
from pathlib import Path

from ...foundation.errors import UserError
from ...foundation.extras import required

NAME = re.compile(r"[\w.-]+/[\w.-]+")
WANTED = ("*.json", "*/*.safetensors", "diffusion_pytorch_model*.safetensors", "*/*.model", "*/*.txt")
UNWANTED = (
    "*.fp16.*",
    "*.bf16.*",
    "*.non_ema.*",
    "*.fp16-*",
    "safety_checker/*.safetensors",
)  # beside the whole weights


def resolve(name: Path | str) -> Path:
    """The folder of this path; of a name on the hub, which is no path here, the snapshot that is fetched or was before.

    Raises:
        UserError: it is neither, the hub cannot be reached, or keeps it for those who accepted its terms.
    """
    path = Path(name)
    if path.exists() or not NAME.fullmatch(str(name)) or str(name).startswith("."):
        return path
    hub = required("huggingface_hub", str(name), "; or name a folder on this machine")
    errors = required("huggingface_hub.errors", str(name))
    try:
        return Path(hub.snapshot_download(str(name), allow_patterns=list(WANTED), ignore_patterns=list(UNWANTED)))
    except errors.GatedRepoError as error:
        raise UserError(
            f"{name}: is on the hub for those who accepted its terms; accept them on its page there, then run `hf auth login`"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise UserError(f"{name}: there is no such folder here and no such model on the hub; check the name") from error
    except Exception as error:  # what the network's absence is called depends on the version of three libraries
        reason = " ".join(str(error).split())[:160]
        raise UserError(
            f"{name}: no such folder here, and the hub cannot be reached ({type(error).__name__}: {reason}); fetch it where there "
            f"is a network with `hf download {name}`, and name the folder"
        ) from error

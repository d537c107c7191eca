"""Tokenizers and text encoders of a diffusers folder: by an allow-list of classes, from safetensors, no code of the folder's."""

import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from ..foundation.errors import NotHereError, UserError
from ..foundation.extras import required
from .pipelines import quiet
from .protocol import Parts

INDEX = "model_index.json"
CLIP = ("CLIPTokenizer", "CLIPTokenizerFast")
T5 = ("T5Tokenizer", "T5TokenizerFast")
GEMMA = ("GemmaTokenizer", "GemmaTokenizerFast")
ENCODERS = (
    "CLIPTextModel",
    "CLIPTextModelWithProjection",
    "T5EncoderModel",
    "UMT5EncoderModel",
    "Gemma2Model",
    "Gemma2ForCausalLM",
)
TOKENIZERS = (*CLIP, *T5, *GEMMA)
WORDS = ("tokenizer.json", "vocab.json", "spiece.model", "tokenizer.model")  # files of a tokenizer
# Of each pipeline the numbers at the end of tokenizer and text_encoder that it has, and those that it can do without.
PIPELINES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "LatentConsistencyModelPipeline": (("",), ()),
    "StableDiffusionPipeline": (("",), ()),
    "StableDiffusionXLPipeline": (("", "_2"), ("",)),
    "StableDiffusion3Pipeline": (("", "_2", "_3"), ("_3",)),
    "FluxPipeline": (("", "_2"), ()),
    "PixArtAlphaPipeline": (("",), ()),
    "PixArtSigmaPipeline": (("",), ()),
    "SanaPipeline": (("",), ()),
    "SanaSprintPipeline": (("",), ()),
}
KEPT = (".json", ".txt", ".model", ".safetensors")  # of a component's files, when it is copied
BLOCKS, BLOCK = 64, 2**16  # of a file of weights, that a fingerprint looks at


class Components:
    """What a folder's model_index.json says of its text encoders, and where they are.

    Args:
        folder: of a pipeline, on this machine.

    Attributes:
        pipeline: name of its class.
        parts: component -> (library, class).

    Raises:
        UserError: no such folder, no index, a pipeline or a class that is not on the list, a component or its folder missing.
    """

    def __init__(self, folder: Path | str):
        self.folder = Path(folder).expanduser().absolute()
        self.index = _read_json(self.folder, INDEX)
        self.pipeline = str(self.index.get("_class_name"))
        source = self.folder / INDEX
        if self.pipeline not in PIPELINES:
            raise UserError(
                f"{source}: _class_name: prompts of a {self.pipeline} cannot be encoded; those of {', '.join(PIPELINES)} can"
            )
        self.parts: Parts = {}
        numbers, optional = PIPELINES[self.pipeline]
        for number in numbers:
            for kind, allowed in (("tokenizer", TOKENIZERS), ("text_encoder", ENCODERS)):
                self._add(source, f"{kind}{number}", allowed, is_optional=number in optional)

    def _add(self, source: Path, name: str, allowed: tuple[str, ...], *, is_optional: bool) -> None:
        entry = self.index.get(name)
        if entry is None or entry == [None, None]:
            if is_optional:
                return
            raise UserError(f"{source}: {name}: is missing; a {self.pipeline} needs it")
        library, kind = entry if isinstance(entry, list) and len(entry) == 2 else (None, entry)
        if library != "transformers" or kind not in allowed:
            raise UserError(
                f"{source}: {name}: {library}.{kind} is not allowed; transformers' {', '.join(allowed)} are"
            )
        if not (self.folder / name).is_dir():
            raise UserError(f"{self.folder / name}: no such folder; {INDEX} names it")
        if kind in ENCODERS and not list((self.folder / name).glob("*.safetensors")):
            raise UserError(f"{self.folder / name}: has no weights in safetensors, and other formats are not read")
        if kind in TOKENIZERS and not any((self.folder / name / file).is_file() for file in WORDS):
            # Of which transformers makes a tokenizer that knows no word.
            raise UserError(f"{self.folder / name}: has no words for a {kind}; expected one of {', '.join(WORDS)}")
        self.parts[name] = (str(library), str(kind))

    def config(self, part: str) -> dict[str, Any]:
        """The config.json of another component, {} where there is none."""
        return _read_json(self.folder / part, "config.json") if (self.folder / part / "config.json").is_file() else {}

    def load(self, dtype: torch.dtype, device: torch.device | str) -> dict[str, Any]:
        """The tokenizers and encoders by name, None for what the pipeline does without.

        Raises:
            UserError: a file is missing or damaged, or the weights are not those of the class.
        """
        numbers, _ = PIPELINES[self.pipeline]
        names = [f"{kind}{number}" for number in numbers for kind in ("tokenizer", "text_encoder")]
        return {name: self._part(name, dtype, device) if name in self.parts else None for name in names}

    def _part(self, name: str, dtype: torch.dtype, device: torch.device | str) -> Any:
        transformers = required("transformers", f"{self.folder}:")
        place, (_, kind) = self.folder / name, self.parts[name]
        try:
            with quiet():
                if kind in TOKENIZERS:
                    return getattr(transformers, kind).from_pretrained(
                        place, local_files_only=True, trust_remote_code=False
                    )
                encoder, info = getattr(transformers, kind).from_pretrained(
                    place,
                    local_files_only=True,
                    trust_remote_code=False,
                    use_safetensors=True,
                    dtype=dtype,
                    output_loading_info=True,
                )
        except Exception as error:  # of whatever kind, it is about these files
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"{place}: cannot be read as a {kind}: {type(error).__name__}: {reason}") from error
        if wrong := sorted([*info["missing_keys"], *info.get("mismatched_keys", ())], key=str):
            raise UserError(
                f"{place}: {len(wrong)} weights of a {kind} are missing or of another shape, {wrong[0]} the first of them"
            )
        return encoder.eval().requires_grad_(False).to(device)

    def fingerprint(self) -> str:
        """sha256 over all small files, and of files of weights their size, their head and blocks spread over them."""
        digest = hashlib.sha256(json.dumps([self.pipeline, sorted(self.parts)]).encode())
        for name in sorted(self.parts):
            for content in self._content(name):
                digest.update(content)
        return digest.hexdigest()

    def identities(self) -> dict[str, str]:
        """The same of each component by itself, 16 digits."""
        return {name: hashlib.sha256(b"".join(self._content(name))).hexdigest()[:16] for name in sorted(self.parts)}

    def _content(self, name: str) -> Iterator[bytes]:
        for file in sorted((self.folder / name).iterdir()):
            if not file.is_file() or file.suffix not in KEPT:
                continue
            size = file.stat().st_size
            yield f"{name}/{file.name} {size}".encode()
            step = max(size // BLOCKS, BLOCK)
            with file.open("rb") as content:
                for start in range(0, size, step):
                    content.seek(start)
                    yield content.read(BLOCK)

    def copy(self, folder: Path) -> Parts:
        """Copy tokenizers and encoders into a folder, each into one of its name; nothing but configurations, words and weights."""
        for name in self.parts:
            (folder / name).mkdir(parents=True, exist_ok=True)
            for file in sorted((self.folder / name).iterdir()):
                if file.is_file() and file.suffix in KEPT:
                    shutil.copyfile(file, folder / name / file.name)
        return dict(self.parts)


def _read_json(folder: Path, name: str) -> dict[str, Any]:
    if not folder.is_dir():
        raise NotHereError(f"{folder}: no such folder")
    if not (folder / name).is_file():
        raise UserError(f"{folder}: has no {name}; expected the folder of a diffusers pipeline")
    try:
        content = json.loads((folder / name).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{folder / name}: cannot be read as JSON: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{folder / name}: expected an object, got a {type(content).__name__}")
    return content

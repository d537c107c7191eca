"""The text encoder of a model, found again by what `model.json` says of it, and prompts for the model."""

from pathlib import Path

from ..condition import Prompts
from ..foundation.binding import bind, construct, locate
from ..foundation.errors import UserError
from ..text import PromptList, TextEncoder, classes_in, embedded
from . import record, user_code
from .model import ModelRecord


def load_text(node: record.Node, source: Path | str) -> TextEncoder:
    """What encodes a model's prompts; nothing is encoded yet.

    Args:
        node: of the record.
        source: the run folder or file that it is of, for messages and for modules of the user's own.

    Raises:
        UserError: the node names something that is no text encoder, or what it needs is not there any more.
    """
    place = Path(source)
    try:
        user_code.make_importable(place if place.is_dir() else place.parent)
        target = locate(node["_target_"], "text._target_")
        if not (isinstance(target, type) and issubclass(target, TextEncoder)):
            raise UserError(
                f"text._target_: {node['_target_']} is no text encoder; a model's file may name no other code"
            )
        _refuse_nodes(node)
        built: TextEncoder = construct(bind(node, TextEncoder, "text"))
    except UserError as error:
        raise UserError(f"{source}: {error}") from error
    return built


def encoded_prompts(path: Path, record: ModelRecord, prompts: PromptList | None = None) -> Prompts | None:
    """Prompts as a model's own text encoder embeds them; None for the record's where it has none.

    Raises:
        UserError: the record names no text encoder, or its embeddings are not what the network takes.
    """
    if prompts is None:
        if record.text is None or not record.prompts:
            return None
        prompts = PromptList(record.prompts, record.prompt_labels or None, str(path))
    if record.text is None:
        raise UserError(
            f"{prompts.source}: {path} has no text encoder: its model.json names none; name one there as text, or train on prompts"
        )
    made = embedded(load_text(record.text, path), prompts.texts)
    condition = made.condition(made.numbers(prompts.texts))
    wanted = {name: tuple(shape) for name, shape in record.net.get("condition_shapes", {}).items()}
    if wanted and condition.shapes != wanted:
        name = next(each for each in {**wanted, **condition.shapes} if wanted.get(each) != condition.shapes.get(each))
        raise UserError(
            f"{path}: its text encoder gives {name} {condition.shapes.get(name, 'not at all')}, the network takes "
            f"{wanted.get(name, 'none')}"
        )
    return Prompts(prompts.texts, condition, classes_in(prompts, record.class_names, record.num_classes))


def _refuse_nodes(value: object, key: str = "text", *, is_top: bool = True) -> None:
    """A model's file may come from anywhere: building an encoder must not be able to call anything else."""
    if isinstance(value, dict):
        if "_target_" in value and not is_top:
            raise UserError(
                f"{key}._target_: {value['_target_']} may not stand there; a model's file may name no other code"
            )
        for name, item in value.items():
            _refuse_nodes(item, f"{key}.{name}", is_top=False)
    if isinstance(value, list):
        for number, item in enumerate(value):
            _refuse_nodes(item, f"{key}.{number}", is_top=False)

"""A student's teacher: loading it, and what it must have been trained with for what the student is to learn of it."""

from pathlib import Path

from ..artifacts import ModelRecord, load_denoiser
from ..denoiser import Denoiser
from ..foundation.errors import UserError
from . import pretrained


def load_teacher(path: Path, own: Denoiser, *, is_followed: bool) -> tuple[Denoiser, ModelRecord]:
    """The teacher, clamped to the student's bounds where it is followed, and its record.

    Args:
        path: of its run folder or model file.
        own: the student's denoiser.
        is_followed: whether its velocity is; another teacher is a start alone.

    Raises:
        UserError: there is no such model, its velocity cannot be followed, or its weights mean something else in the student.
    """
    teacher, record = load_denoiser(path), pretrained.record(path, "teacher")
    if is_followed and teacher.kind != "denoiser":
        raise UserError(
            f"model.teacher: {path} is a consistency model, whose output is no velocity; name a denoiser, or take "
            "objective=training, which only starts from it"
        )
    pretrained.refuse_other_parametrisation(own, teacher, path)
    if is_followed:
        teacher.bounds = own.bounds
    return teacher, record


def refuse_untaught(
    teacher: ModelRecord, path: Path, *, guidance: tuple[float, float] | None, augments: bool
) -> str | None:
    """UserError for a velocity that the teacher cannot give, guided or of augmented images; a remark where that is not known.

    Args:
        teacher: its record.
        path: where it is, for messages.
        guidance: (low, high) of the scale; None for none.
        augments: whether the student's images are augmented.
    """
    if augments and teacher.augment is False:
        raise UserError(f"data.augment: {path} was trained without, and knows no augmented images")
    for scale in guidance or ():
        if scale == 1:
            continue
        if (fault := teacher.conditions.fault(scale)) is not None:
            raise UserError(f"model.{fault[0]}: of {path}: {fault[1]}")
        if (doubt := teacher.conditions.doubt(scale)) is not None:
            return f"model.guidance: of {path}: {doubt}"
    return None


def refuse_other_teacher(stored: str, own: str, path: Path) -> None:
    """UserError unless a checkpoint's teacher, by its hash, is the one at this path."""
    if stored != own:
        raise UserError(
            f"the checkpoint is of a distillation from another teacher: its weights have the hash {stored[:12]}, those of "
            f"{path} {own[:12]}; put the old one back, or choose another name"
        )

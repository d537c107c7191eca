"""What a model was trained with, and so which labels and which guidance it can be sampled with."""

from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class TrainedWith:
    """Part of a model's record. None: not known, as of models from before it was recorded.

    Args:
        label_dropout: share of the examples that had no label, in [0, 1); at 0 there is no unconditional output.
        guidance: (low, high) of the guidance scales that a consistency model was distilled for; None without that input, too.
        augment: whether images were augmented, and the network told how.
    """

    label_dropout: float | None = None
    guidance: tuple[float, float] | None = None
    augment: bool | None = None


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """What a model's samples may be conditioned on.

    Args:
        kind: see `Denoiser`.
        num_classes: of the network, 0 for one that ignores labels.
        takes_scale: whether the network has an input for the guidance scale.
        takes_condition: whether it takes a `Condition`, the embeddings of a prompt for instance.
        trained_with: what is known of the training.
    """

    kind: str
    num_classes: int
    takes_scale: bool = False
    takes_condition: bool = False
    trained_with: TrainedWith = field(default_factory=TrainedWith)

    @property
    def _has_any(self) -> bool:
        """Whether there is anything to be conditioned on."""
        return self.num_classes > 0 or self.takes_condition

    def fault(self, guidance: float, *, labelled: bool = True, has_guide: bool = False) -> tuple[str, str] | None:
        """What is wrong ("guidance", "guide" or "labels") and why, of samples that the model cannot give; None for others.

        Args:
            guidance: scale; 1 is none.
            labelled: whether every sample has a label.
            has_guide: whether another model guides.
        """
        if self.takes_scale and has_guide:
            return "guide", "this model takes the scale as an input and needs no guide"
        if guidance != 1 and (fault := self._guidance_fault(guidance, labelled, has_guide)) is not None:
            return "guidance", fault
        if not labelled and self._has_any and self.trained_with.label_dropout == 0:
            return "labels", "this model was trained with the label of every image and has no output without one"
        return None

    def _guidance_fault(self, guidance: float, labelled: bool, has_guide: bool) -> str | None:
        if not has_guide and not self._has_any:
            return "this model has no classes to be guided by"
        if not has_guide and not labelled:
            return "needs --labels, so that the model without them can be the guide, or a --guide"
        if self.takes_scale:
            low, high = self.trained_with.guidance or (guidance, guidance)
            known = f"this model was distilled for the scales {low:g} to {high:g}, not for {guidance:g}"
            return None if low <= guidance <= high else known
        if self.kind == "consistency":
            return "this consistency model was distilled without; model.guidance of its recipe says with what"
        if not has_guide and self.trained_with.label_dropout == 0:
            return (
                "this model was trained with the label of every image (model.condition_dropout: 0), so that there is no "
                "unconditional output to be guided by; train one with label dropout, or guide by another model"
            )
        return None

    def doubt(self, guidance: float, *, labelled: bool = True, has_guide: bool = False) -> str | None:
        """A remark on samples without a fault, where the training is unknown or had nothing like them; arguments as for `fault`."""
        trained = self.trained_with
        if self.takes_scale:
            if trained.guidance is None:
                return (
                    None if guidance == 1 else "for which scales of guidance this model was distilled is not recorded"
                )
            low, high = trained.guidance
            return None if low <= guidance <= high else f"this model was distilled for the scales {low:g} to {high:g}"
        needs_no_label = not labelled or (guidance != 1 and not has_guide)
        if needs_no_label and self._has_any and trained.label_dropout is None:
            return "whether this model was trained without labels too (condition_dropout) is not recorded; if not, this is nonsense"
        return None

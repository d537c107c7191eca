"""Conditions behave as tensors do: by rows, through batches, transforms and devices; prompts are their rows by number."""

import pytest
import torch
from torch import nn

from lightning_diff.condition import (
    Condition,
    NullCondition,
    Prompts,
    TakesCondition,
    blank,
    into_batch,
    of_batch,
    takes_condition,
    without,
)
from lightning_diff.denoiser import Denoiser, FlowTime
from lightning_diff.samplers.guidance import guided


def text(count=3, tokens=4, width=5):
    generator = torch.Generator().manual_seed(count)
    return Condition(
        {
            "words": torch.randn(count, tokens, width, generator=generator),
            "mask": torch.ones(count, tokens, dtype=torch.int64),
        }
    )


class Told(nn.Module):
    """Adds the mean of the words of each example; its null condition is its own."""

    def __init__(self, shapes):
        super().__init__()
        self.condition_shapes, self.null = shapes, NullCondition(shapes)

    @property
    def null_condition(self):
        return self.null.row

    def keep_null_condition(self, condition):
        self.null.keep(condition)

    def forward(self, x, c_noise, label=None):
        label = self.null.row.expand(len(x)) if label is None else label
        return x + label.tensors["words"].mean((1, 2)).reshape(-1, *[1] * (x.ndim - 1))


def equal(one, other):
    assert one.tensors.keys() == other.tensors.keys()
    return all(torch.equal(each, other.tensors[name]) for name, each in one.tensors.items())


def test_rows_are_taken_as_a_tensors_are():
    condition, rows = text(), torch.tensor([2, 0, 2])
    assert len(condition[rows]) == 3
    assert torch.equal(condition[rows].tensors["words"], condition.tensors["words"][rows])
    assert equal(condition[rows.numpy()], condition[rows])
    assert equal(condition[1:][:1], condition[[1]])
    assert equal(Condition.cat([condition[:1], condition[1:]]), condition)
    assert equal(condition.repeat_interleave(2)[::2], condition)


def test_a_batch_holds_what_it_is_conditioned_on_and_gives_it_back():
    image, condition, label = torch.zeros(3, 1), text(), torch.tensor([1, 2, 0])
    batch = {"image": image, **into_batch(condition)}
    assert equal(of_batch(batch), condition)
    assert without(batch).keys() == {"image"}
    assert of_batch({"image": image, **into_batch(label)}) is label
    assert of_batch({"image": image, **into_batch(None)}) is None


def test_masks_keep_their_dtype_where_floats_change_theirs():
    half = text().to(torch.bfloat16)
    assert half.tensors["words"].dtype == torch.bfloat16
    assert half.tensors["mask"].dtype == torch.int64
    assert text().to("meta").device.type == "meta"


def test_dropped_rows_are_the_null_condition():
    condition, null = text(), text(1)
    keep = torch.tensor([True, False, True])
    found = condition.where(keep, null)
    assert equal(found[[1]], null)
    assert equal(found[[0, 2]], condition[[0, 2]])


@pytest.mark.parametrize(
    ("other", "named"), [(text(1, width=6), "words"), (Condition({"words": torch.zeros(1, 4, 5)}), "mask")]
)
def test_other_names_and_shapes_are_refused(other, named):
    with pytest.raises(ValueError, match=named):
        text().where(torch.ones(3, dtype=torch.bool), other)


def test_lengths_must_agree():
    with pytest.raises(ValueError, match="2, 3"):
        Condition({"a": torch.zeros(2), "b": torch.zeros(3)})


def test_torchs_transforms_see_the_tensors():
    condition = text()
    doubled = torch.utils._pytree.tree_map(lambda each: 2 * each, condition)
    assert torch.equal(doubled.tensors["words"], 2 * condition.tensors["words"])
    mean = torch.vmap(lambda row: row.tensors["words"].mean())(condition)
    assert torch.allclose(mean, condition.tensors["words"].mean((1, 2)))


def test_a_null_condition_is_unknown_until_it_is_kept_or_loaded():
    shapes, null = text().shapes, text(1)
    net, other = Told(shapes), Told(shapes)
    assert net.null_condition is None
    assert isinstance(net, TakesCondition)
    assert takes_condition(net)
    net.keep_null_condition(null)
    other.load_state_dict(net.state_dict())
    assert torch.equal(other.null_condition.tensors["words"], null.tensors["words"])
    assert not takes_condition(Told({}))
    assert not takes_condition(nn.Linear(1, 1))


def test_a_blank_one_has_the_kind_that_the_network_takes():
    assert blank(Told(text().shapes), 0, 2).shapes == text().shapes
    assert torch.equal(blank(nn.Linear(1, 1), 10, 2), torch.zeros(2, dtype=torch.int64))
    assert blank(nn.Linear(1, 1), 0) is None


def test_the_number_of_a_prompt_means_its_row():
    condition, prompts = text(), Prompts(["a", "b", "c"], text())
    denoiser = Denoiser(Told(condition.shapes), 0.5, FlowTime(), prediction="flow").eval()
    x, sigma, numbers = torch.randn(2, 1, 3, 3), torch.tensor(2.0), torch.tensor([2, 0])
    told = denoiser.told(prompts)
    assert torch.equal(told(x, sigma, numbers), denoiser(x, sigma, condition[numbers]))
    assert told.net is denoiser.net
    assert not told.training
    assert denoiser.prompts is None
    assert told.state_dict().keys() == denoiser.state_dict().keys()  # prompts are no weights
    assert told.around(denoiser.net).prompts is prompts


def test_guidance_is_away_from_the_null_condition():
    condition, null = text(2), text(1)
    denoiser = Denoiser(Told(condition.shapes), 0.5, FlowTime(), prediction="flow")
    denoiser.net.keep_null_condition(null)
    x, sigma = torch.randn(2, 1, 3, 3), torch.tensor(2.0)
    D, D_null = denoiser(x, sigma, condition), denoiser(x, sigma, null.expand(2))
    found = guided(denoiser, condition, scale=3.0)(x, sigma)
    assert torch.allclose(found, D_null + 3 * (D - D_null))

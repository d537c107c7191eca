"""Rewards of images that were drawn for prompts see the class of each, the number, or the text."""

import torch

from lightning_diff.rewards import WeightedSum, for_prompts, needs_label

TEXTS = ("a cat", "a dog", "two cats")
IMAGES, NUMBERS = torch.zeros(4, 1, 2, 2), torch.tensor([2, 0, 1, 2])


def the_label(images, label):
    return label.float()


def the_length(images, label, prompts):
    return torch.tensor([float(len(each)) for each in prompts])


class NeedsLabel:
    needs_label = True

    def __call__(self, images, label):
        return label.float()


def test_a_label_is_the_prompts_number_or_its_class():
    assert for_prompts(the_label, TEXTS)(IMAGES, NUMBERS).tolist() == [2, 0, 1, 2]
    assert for_prompts(the_label, TEXTS, (0, 1, 0))(IMAGES, NUMBERS).tolist() == [0, 0, 1, 0]


def test_texts_are_given_to_what_takes_them():
    assert for_prompts(the_length, TEXTS)(IMAGES, NUMBERS).tolist() == [8, 5, 5, 8]


def test_a_sum_stays_a_sum():
    told = for_prompts(WeightedSum({"n": the_length, "label": NeedsLabel()}, {"n": 2.0}, "none"), TEXTS, (0, 1, 0))
    assert isinstance(told, WeightedSum)
    assert needs_label(told)
    assert told(IMAGES, NUMBERS).tolist() == [16, 10, 11, 16]

"""A Trainer of one's own: whatever it is given to train on, noise is a function of seed and position."""

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningDataModule, Trainer, seed_everything
from texts import LetterNet, Letters
from torch.utils.data import DataLoader, TensorDataset

from lightning_diff import AlignmentModule, ConsistencyModule, DiffusionModule, TrainingData
from lightning_diff.callbacks import EMA, NoiseLevels
from lightning_diff.data import Digits, drawn
from lightning_diff.ema import HalfLife
from lightning_diff.foundation.errors import UserError
from lightning_diff.nets import MLP

pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers.*")
SHAPE = (1, 8, 8)


class Noting(DiffusionModule):
    """Keeps what each micro-batch held."""

    def training_step(self, batch, batch_idx):
        self.noted = [*getattr(self, "noted", []), {name: value.clone() for name, value in batch.items()}]
        return super().training_step(batch, batch_idx)


def module(classes=10, kind=Noting):
    torch.manual_seed(0)
    return kind(MLP(SHAPE, classes, width=8, depth=1), num_classes=classes)


def fit(module, *source, folder=None, ckpt_path=None, **options):
    trainer = Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=folder is not None,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        **{"max_epochs": 1} | options,
    )
    trainer.fit(module, *source, ckpt_path=ckpt_path)
    return trainer


def images(n=50):
    return Digits(batch_size=16).train.take(np.arange(n))


def column(module, name):
    return torch.cat([batch[name] for batch in module.noted])


def test_a_data_is_streamed_as_the_recipes_are_however_it_is_given(tmp_path):
    trained = []
    for source in (TrainingData(Digits(batch_size=16), 0), Digits(batch_size=16)):
        trained.append(module())
        fit(trained[-1], source, max_steps=3, max_epochs=-1)
    trained.append(module())
    Trainer(
        accelerator="cpu", max_steps=3, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False,
    ).fit(trained[-1], datamodule=Digits(batch_size=16))  # fmt: skip
    for other in trained[1:]:
        assert other.images_seen == 48
        assert all(torch.equal(a, b) for a, b in zip(trained[0].parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize("form", ["pairs", "lists", "mappings", "other keys", "images", "bytes"])
def test_batches_of_a_plain_loader_get_noise_by_position(form):
    image, label = images()
    items = {
        "pairs": TensorDataset(image, label),
        "lists": [[x, int(y)] for x, y in zip(image, label, strict=True)],
        "mappings": [{"image": x, "label": y} for x, y in zip(image, label, strict=True)],
        "other keys": [{"pixel_values": x, "labels": y} for x, y in zip(image, label, strict=True)],
        "images": image,
        "bytes": TensorDataset(((image + 1) * 127.5).round().to(torch.uint8), label),
    }[form]
    trained = module(classes=0 if form == "images" else 10)
    fit(trained, DataLoader(items, batch_size=16), callbacks=[EMA({"a": HalfLife(100)})])
    assert trained.images_seen == 50  # the last batch is smaller
    assert torch.equal(column(trained, "position"), torch.arange(50))
    expected = drawn(0, np.arange(50), 16, SHAPE)
    for name in ("noise", "u"):
        assert torch.equal(column(trained, name), expected[name])
    assert torch.allclose(column(trained, "image"), image, atol=1 / 127)
    if form != "images":
        assert torch.equal(column(trained, "label"), label)


def test_accumulation_and_the_seed_of_lightning(monkeypatch):
    data = TensorDataset(*images(48))
    whole, parts, other = module(), module(), module()
    fit(whole, DataLoader(data, batch_size=16))
    fit(parts, DataLoader(data, batch_size=4), accumulate_grad_batches=4)
    assert whole.images_seen == parts.images_seen == 48
    for name in ("position", "noise", "u"):
        assert torch.equal(column(whole, name), column(parts, name))
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")
    seed_everything(5, verbose=False)
    fit(other, DataLoader(data, batch_size=16))
    assert torch.equal(column(other, "noise"), drawn(5, np.arange(48), 16, SHAPE)["noise"])


def test_a_datamodule_of_ones_own_and_a_loader_in_the_module():
    class Own(LightningDataModule):
        def setup(self, stage):
            self.data = TensorDataset(*images(32))

        def train_dataloader(self):
            return DataLoader(self.data, batch_size=16)

    class WithLoader(Noting):
        def train_dataloader(self):
            return DataLoader(TensorDataset(*images(32)), batch_size=16)

    a, b = module(), module(kind=WithLoader)
    fit(a, Own())
    fit(b)
    assert a.images_seen == b.images_seen == 32
    assert torch.equal(column(a, "noise"), column(b, "noise"))


def test_noise_levels_are_measured_without_the_data_but_for_gradients(tmp_path):
    trained, watch = module(), NoiseLevels(gradient_every=16)
    fit(trained, DataLoader(TensorDataset(*images(32)), batch_size=16), callbacks=[watch], folder=tmp_path)
    assert float(watch.moments[:, 0].sum()) == 32
    assert float(watch.gradients.square(0).nan_to_num(0).sum()) == 0


@pytest.mark.filterwarnings("ignore:The dirpath has changed")
def test_a_checkpoint_of_a_plain_loader_resumes_at_its_position(tmp_path):
    loader = DataLoader(TensorDataset(*images(48)), batch_size=16)
    whole, begun, resumed = module(), module(), module()
    fit(whole, loader, max_epochs=4)
    checkpoint = fit(begun, loader, max_epochs=2, folder=tmp_path).checkpoint_callback.best_model_path
    fit(resumed, loader, max_epochs=4, ckpt_path=checkpoint, folder=tmp_path / "resumed")
    assert torch.equal(column(resumed, "position"), torch.arange(96, 192))
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))


@pytest.mark.parametrize(
    ("items", "facts"),
    [
        (lambda x, y: TensorDataset((x + 1) / 2, y), r"\[0, 1\].*\[-1, 1\]"),
        (lambda x, y: TensorDataset(x.long(), y), "int64"),
        (lambda x, y: TensorDataset(x), "no labels"),
        (lambda x, y: TensorDataset(x, y + 5), "num_classes=10.*label 1"),
        (lambda x, y: TensorDataset(x, y.float()), "whole number"),
        (lambda x, y: TensorDataset(x[..., :4], y), r"\(1, 8, 8\).*\(1, 8, 4\)"),
        (lambda x, y: [{"picture": a} for a in x], "image.*picture"),
        (lambda x, y: TensorDataset(y), "image, label"),
        (lambda x, y: ["a", "b"], "image, label"),
    ],
)
def test_what_a_loader_gives_and_training_cannot_take_is_said(items, facts):
    with pytest.raises(UserError, match=facts):
        fit(module(), DataLoader(items(*images(20)), batch_size=20))


def test_nothing_to_train_on_is_said():
    with pytest.raises(UserError, match="nothing to train on"):
        fit(module())


def test_a_runs_checkpoint_is_loaded_by_its_recipe(train, state):
    folder = train("tiny")
    loaded = DiffusionModule.load_from_checkpoint(folder)
    saved = state(folder)
    assert loaded.images_seen == saved["images_seen"]
    for name, weight in loaded.state_dict().items():
        assert torch.equal(weight, saved["state_dict"][name])
    with pytest.raises(UserError, match="ConsistencyModule"):
        ConsistencyModule.load_from_checkpoint(folder)
    with pytest.raises(UserError, match="no such checkpoint"):
        AlignmentModule.load_from_checkpoint("nothere.ckpt")


def test_a_checkpoint_without_a_recipe_needs_the_modules_arguments(tmp_path):
    trained = module()
    path = fit(
        trained, DataLoader(TensorDataset(*images(16)), batch_size=16), folder=tmp_path
    ).checkpoint_callback.best_model_path
    with pytest.raises(UserError, match=r"no recipe.*net"):
        DiffusionModule.load_from_checkpoint(path)
    loaded = DiffusionModule.load_from_checkpoint(path, net=MLP(SHAPE, 10, width=8, depth=1), num_classes=10)
    assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), trained.parameters(), strict=True))
    with pytest.raises(UserError, match="another network"):
        DiffusionModule.load_from_checkpoint(path, net=MLP(SHAPE, 10, width=4, depth=1), num_classes=10)


def letters(count=6, **changed):
    x = torch.zeros(count, *SHAPE)
    return [{"image": x, "condition": Letters().encode(["a cat"] * count).tensors | changed}]


def text_module():
    torch.manual_seed(0)
    return Noting(LetterNet(SHAPE, Letters().shapes()))


def test_a_condition_in_a_batch_reaches_the_network():
    trained = text_module()
    fit(trained, DataLoader(letters(), batch_size=None), max_steps=1)
    (batch,) = trained.noted
    assert {"condition.letters", "condition.length", "noise", "position"} <= batch.keys()
    assert torch.equal(batch["condition.length"], torch.full((6, 1), 5))


@pytest.mark.parametrize(
    ("made", "batches", "words"),
    [
        (text_module, [{"image": torch.zeros(6, *SHAPE)}], "no 'condition'"),
        (text_module, letters(letters=torch.zeros(6, 2, 14)), "letters"),
        (text_module, letters(letters=torch.zeros(5, 2, 13)), "condition.letters.*6 images"),
        (text_module, [{"image": torch.zeros(6, *SHAPE), "condition": torch.zeros(6)}], "by name"),
        (module, letters(), "takes none"),
    ],
)
def test_conditions_that_do_not_fit_are_refused(made, batches, words):
    with pytest.raises(UserError, match=words):
        fit(made(), DataLoader(batches, batch_size=None), max_steps=1)

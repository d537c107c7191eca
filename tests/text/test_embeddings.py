"""Each text is encoded once, and what is read from the file is what the encoder gave."""

import pytest
import torch
from texts import Letters

from lightning_diff.foundation.errors import UserError
from lightning_diff.text import embeddings

TEXTS = ["a cat", "two dogs", "a cat", "é"]


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LIGHTNING_DIFF_CACHE", str(tmp_path / "cache"))


def alike(made, encoder=None):
    direct = (encoder or Letters()).encode(TEXTS)
    given = made.condition(made.numbers(TEXTS))
    assert all(torch.equal(given.tensors[name], each) for name, each in direct.tensors.items())
    assert given.tensors["length"].dtype == torch.int64
    assert all(torch.equal(each, Letters().null().tensors[name]) for name, each in made.null.tensors.items())


def test_every_distinct_text_is_encoded_once_and_found_again():
    first, second = Letters(), Letters()
    alike(embeddings.embedded(first, TEXTS))
    assert first.calls == 3 + 1  # and the empty one
    assert first.released == 1
    alike(embeddings.embedded(second, TEXTS))
    assert second.calls == 0


def test_another_encoder_or_other_texts_are_encoded_anew(tmp_path):
    for encoder, texts in ((Letters(), TEXTS), (Letters(2.0), TEXTS), (Letters(), TEXTS[:2])):
        embeddings.embedded(encoder, texts)
        assert encoder.calls > 0
    assert len(list((tmp_path / "cache").rglob("*.safetensors"))) == 3


def test_a_damaged_file_is_made_again(tmp_path):
    embeddings.embedded(Letters(), TEXTS)
    (file,) = (tmp_path / "cache").rglob("*.safetensors")
    file.write_bytes(file.read_bytes()[:-7])
    alike(embeddings.embedded(Letters(), TEXTS))


def test_parts_are_written_where_they_belong(monkeypatch):
    monkeypatch.setattr(embeddings, "AT_ONCE", 2)
    alike(embeddings.embedded(Letters(), TEXTS))


def test_without_a_place_to_write_they_stay_in_memory(monkeypatch):
    def nowhere():
        raise OSError

    monkeypatch.setattr(embeddings.caches, "folder", nowhere)
    alike(embeddings.embedded(Letters(), TEXTS))


def test_half_precision_is_kept_and_handed_on_in_full():
    class Half(Letters):
        def encode(self, prompts):
            return super().encode(prompts).to(torch.bfloat16)

    made = embeddings.embedded(Half(), TEXTS)
    assert made.stored.tensors["letters"].dtype == torch.bfloat16
    assert made.condition(made.numbers(TEXTS)).tensors["letters"].dtype == torch.float32
    alike(made)


def test_a_full_disk_is_told_before_anything_is_encoded(monkeypatch, tmp_path):
    encoder = Letters()
    monkeypatch.setattr(embeddings.shutil, "disk_usage", lambda _: embeddings.shutil._ntuple_diskusage(9, 9, 10))
    with pytest.raises(UserError, match=r"GB.*LIGHTNING_DIFF_CACHE"):
        embeddings.embedded(encoder, TEXTS)
    assert encoder.calls == 1  # the empty one, which tells the size
    assert not list((tmp_path / "cache").rglob("*.safetensors"))

"""Each text is encoded once, and what is read from the file is what the encoder gave."""

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
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


def test_other_bytes_than_were_written_are_damage(tmp_path, capsys):
    embeddings.embedded(Letters(), TEXTS)
    (file,) = (tmp_path / "cache").rglob("*.safetensors")
    file.write_bytes(file.read_bytes()[:-1] + b"!")
    alike(embeddings.embedded(Letters(), TEXTS))
    assert f"{file}: {file.name} holds other bytes" in capsys.readouterr().out


def test_the_file_names_its_encoder_and_one_of_before_that_does_not_is_read(tmp_path):
    embeddings.embedded(Letters(3.0), TEXTS)
    (file,) = (tmp_path / "cache").rglob("*.safetensors")
    with safe_open(file, "pt") as content:
        told = content.metadata()
    assert told["encoder"] == Letters(3.0).fingerprint()
    assert json.loads(told["settings"]) == {"target": "texts.Letters", "scale": "3.0"}
    save_file(load_file(file), file)  # without metadata
    again = Letters(3.0)
    alike(embeddings.embedded(again, TEXTS), Letters(3.0))
    assert again.calls == 0


def test_encoding_that_was_interrupted_goes_on_to_the_same_bytes(tmp_path, monkeypatch, capsys):
    class Failing(Letters):
        def encode(self, prompts):
            if self.calls > 3:
                raise RuntimeError("boom")
            return super().encode(prompts)

    monkeypatch.setattr(embeddings, "AT_ONCE", 2)
    texts = list("abcdefg")
    with pytest.raises(RuntimeError, match="boom"):
        embeddings.embedded(Failing(), texts)
    assert not list((tmp_path / "cache").glob("text/*/*.safetensors"))
    encoder = Letters()
    embeddings.embedded(encoder, texts)
    assert encoder.calls == 1 + 3  # the empty one, and what was missing of seven
    assert "going on, 4 are there" in capsys.readouterr().out
    (file,) = (tmp_path / "cache").rglob("*.safetensors")
    interrupted = file.read_bytes()
    file.unlink()
    embeddings.embedded(Letters(), texts)
    assert file.read_bytes() == interrupted


def test_more_than_max_gib_is_told_before_anything_is_encoded(tmp_path):
    with pytest.raises(UserError, match=r"data\.max_gib: .* GiB"):
        embeddings.embedded(Letters(), TEXTS, max_gib=1e-9)
    assert not (tmp_path / "cache" / "text").exists()


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

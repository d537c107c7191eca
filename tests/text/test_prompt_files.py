"""Files of prompts are read as they are written, or refused in a line that names file and line."""

import pytest
from messages import tells

from lightning_diff.foundation.errors import UserError
from lightning_diff.text import PromptList, classes_in, read_prompts


def test_a_text_has_a_prompt_a_line(tmp_path):
    (tmp_path / "a.txt").write_text("\ufeffone cat\n\n  two dogs \n")
    assert read_prompts(tmp_path / "a.txt").texts == ("one cat", "two dogs")


def test_objects_have_prompts_and_perhaps_labels(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"prompt": "a cat", "label": "cat"}\n{"caption": "a dog", "label": 1}\n')
    found = read_prompts(tmp_path / "a.jsonl")
    assert found.texts == ("a cat", "a dog")
    assert classes_in(found, ["cat", "dog"], 2) == [0, 1]
    assert classes_in(found, [], 0) is None
    with pytest.raises(UserError, match="no class 'cat'"):
        classes_in(found, ["horse", "dog"], 2)
    (tmp_path / "b.jsonl").write_text('{"text": "a cat"}\n')
    assert read_prompts(tmp_path / "b.jsonl") == PromptList(("a cat",), None, str(tmp_path / "b.jsonl"))


@pytest.mark.parametrize(
    ("name", "content", "facts"),
    [
        ("a.txt", "\n \n", "a.txt ... no prompts"),
        ("a.jsonl", "", "a.jsonl ... no prompts"),
        ("a.jsonl", '{"prompt": "x"}\n{"prompt', "a.jsonl ... line 2 ... JSON"),
        ("a.jsonl", '["x"]', "a.jsonl ... line 1 ... list"),
        ("a.jsonl", '{"promt": "x"}', "a.jsonl ... line 1 ... promt"),
        ("a.jsonl", '{"prompt": 3}', "a.jsonl ... line 1 ... int"),
        ("a.jsonl", '{"prompt": "x", "label": 1.5}', "a.jsonl ... line 1 ... label ... 1.5"),
        ("a.jsonl", '{"prompt": "x", "label": 1}\n{"prompt": "y"}', "a.jsonl ... label"),
        ("a.csv", "x", "a.csv ... .txt ... .jsonl"),
        ("a.txt", None, "a.txt ... no such file"),
        ("a.txt", b"\xff\xfe\x00", "a.txt ... cannot be read"),
    ],
)
def test_bad_files_are_refused(tmp_path, name, content, facts):
    if content is not None:
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError) as error:
        read_prompts(tmp_path / name)
    assert tells(str(error.value), f"... {facts} ...")
    assert "\n" not in str(error.value)

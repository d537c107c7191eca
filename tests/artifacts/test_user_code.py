"""A run's own modules: found again below the working folder if they are what trained, named everywhere else."""

import json
import sys

import pytest
from messages import tells

from lightning_diff.artifacts.user_code import VERSIONS, make_importable, modules_of
from lightning_diff.foundation.binding import PLACES, locate
from lightning_diff.foundation.errors import UserError

CODE = "class Net:\n    pass\n"


@pytest.fixture
def trained(tmp_path, monkeypatch):
    """trained(module): the run folder of a recipe that names this module's Net, its file below `exp`; not imported yet."""
    monkeypatch.setattr("sys.path", list(sys.path))
    monkeypatch.setattr("lightning_diff.foundation.binding.PLACES", PLACES)
    before = set(sys.modules)

    def trained(module="own_part_of_test"):
        file = tmp_path / "exp" / f"{module.replace('.', '/')}.py"
        file.parent.mkdir(parents=True)
        file.write_text(CODE)
        if "." in module:
            (file.parent / "__init__.py").touch()
        sys.path.insert(0, str(tmp_path / "exp"))
        recipe = {"model": {"_target_": "torch.nn.Linear", "net": [{"_target_": f"{module}.Net"}]}}
        locate(f"{module}.Net", "net")
        folder = tmp_path / "runs" / "a"
        folder.mkdir(parents=True)
        (folder / VERSIONS).write_text(json.dumps({"modules": modules_of(recipe)}))
        sys.path.pop(0)
        forget()
        return folder

    def forget():
        for name in set(sys.modules) - before:
            if name.startswith("own_"):
                del sys.modules[name]

    yield trained
    forget()
    PLACES.clear()


def refused(name):
    with pytest.raises(UserError) as error:
        locate(name, "net")
    return str(error.value)


@pytest.mark.parametrize("module", ["own_part_of_test", "own_package.deeper.part"])
def test_below_the_working_folder_they_are_found_and_that_is_said(trained, tmp_path, monkeypatch, capsys, module):
    folder = trained(module)
    monkeypatch.chdir(tmp_path)
    if "." in module:
        (tmp_path / "exp" / "own_package" / "__init__.py").touch()
    assert "must be" in refused(f"{module}.Net")
    make_importable(folder)
    assert locate(f"{module}.Net", "net").__name__ == "Net"
    assert f"exp/{module.replace('.', '/')}.py" in capsys.readouterr().err


@pytest.mark.parametrize("elsewhere", ["empty", "/"])
def test_elsewhere_they_are_only_named(trained, tmp_path, monkeypatch, elsewhere):
    folder = trained()
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / elsewhere)
    make_importable(folder)
    file = tmp_path / "exp" / "own_part_of_test.py"
    assert tells(refused("own_part_of_test.Net"), f"net: ... own_part_of_test.Net ... {file} ... PYTHONPATH")


def test_changed_code_is_not_run(trained, tmp_path, monkeypatch):
    folder = trained()
    (tmp_path / "exp" / "own_part_of_test.py").write_text("raise SystemExit\n")
    monkeypatch.chdir(tmp_path)
    make_importable(folder)
    assert tells(refused("own_part_of_test.Net"), "net: ... own_part_of_test.py ... PYTHONPATH")


def test_installed_packages_are_not_noted():
    assert modules_of({"a": {"_target_": "torch.nn.Linear"}, "b": [{"_target_": "json.loads"}]}) == {}
    assert (
        modules_of({"a": {"_target_": "lightning_diff.nets.MLP"}, "b": {"_target_": 3}, "c": {"_target_": "x"}}) == {}
    )


@pytest.mark.parametrize(
    "note", ["{", "[]", "{}", '{"modules": 3}', '{"modules": {"a": 3}}', '{"modules": {"a": {"file": "a.py"}}}']
)
def test_a_note_that_is_damaged_or_missing_is_none(tmp_path, note):
    make_importable(tmp_path)
    (tmp_path / VERSIONS).write_text(note)
    make_importable(tmp_path)


def test_a_name_that_fits_no_file_says_nothing_and_imports_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    note = {"own_a.b.c.d.e.f.g.h.i.j.k.l.m.n.o.p.q.r.s.t": {"file": "/x.py", "sha256": ""}}
    (tmp_path / VERSIONS).write_text(json.dumps({"modules": note}))
    make_importable(tmp_path)
    assert str(tmp_path) not in sys.path
    PLACES.clear()


def test_a_stranger_of_the_standard_library_is_not_suggested():
    assert "mean" not in refused("own_net.Net")
    assert "mean" not in refused("mynet.Net")

"""Writing files: what stays untouched first."""

from __future__ import annotations

import os
import sysconfig
from pathlib import Path

import pytest

from adapter_codegen.diagnostics.errors import CodegenError
from adapter_codegen.emit.disk import Changes, changes, write
from adapter_codegen.emit.manifest import digest


def code_of(error: CodegenError) -> str:
    return error.diagnostics[0].code


def test_a_file_that_is_as_it_should_be_is_not_touched(tmp_path: Path) -> None:
    write(tmp_path, {"a/b.py": "x = 1\n"})
    os.utime(tmp_path / "a/b.py", (1, 1))
    done = write(tmp_path, {"a/b.py": "x = 1\n"})
    assert done == Changes((), (), (), ("a/b.py",))
    assert (tmp_path / "a/b.py").stat().st_mtime == 1


def test_changes_are_told_without_writing(tmp_path: Path) -> None:
    write(tmp_path, {"old.py": "1\n", "gone.py": "2\n"})
    told = changes(tmp_path, {"old.py": "3\n", "new.py": "4\n"}, obsolete=["gone.py", "never.py"])
    assert told == Changes(("new.py",), ("old.py",), ("gone.py",), ())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["gone.py", "old.py"]


def test_files_are_written_with_line_feeds_and_leave_no_temporary_file(tmp_path: Path) -> None:
    write(tmp_path, {"a.py": "x = 1\ny = 2\n"})
    assert (tmp_path / "a.py").read_bytes() == b"x = 1\ny = 2\n"
    assert [path.name for path in tmp_path.iterdir()] == ["a.py"]


def test_a_hand_edited_file_is_not_written_over_and_nothing_else_is_written(tmp_path: Path) -> None:
    write(tmp_path, {"a.py": "1\n"})
    (tmp_path / "a.py").write_text("mine\n")
    with pytest.raises(CodegenError) as caught:
        write(tmp_path, {"a.py": "2\n", "b.py": "3\n"}, written={"a.py": digest("1\n")})
    assert code_of(caught.value) == "E102"
    assert not (tmp_path / "b.py").exists()
    assert (tmp_path / "a.py").read_text() == "mine\n"


def test_a_hand_edited_file_is_not_deleted_either(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("mine\n")
    with pytest.raises(CodegenError, match="edited by hand"):
        write(tmp_path, {}, obsolete=["a.py"], written={"a.py": digest("1\n")})


def test_overwrite_writes_over_a_hand_edit(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("mine\n")
    write(tmp_path, {"a.py": "2\n"}, overwrite=True)
    assert (tmp_path / "a.py").read_text() == "2\n"


def test_a_hand_edit_that_is_what_would_be_written_is_no_hand_edit(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("2\n")
    assert not write(tmp_path, {"a.py": "2\n"}, written={"a.py": digest("1\n")})


def test_an_obsolete_file_goes_with_its_empty_folder_and_caches(tmp_path: Path) -> None:
    write(tmp_path, {"model/a.py": "1\n", "kept.py": "1\n"})
    (tmp_path / "model/__pycache__").mkdir()
    (tmp_path / "model/__pycache__/a.pyc").write_bytes(b"")
    write(tmp_path, {"kept.py": "1\n"}, obsolete=["model/a.py"], written={"model/a.py": digest("1\n")})
    assert [path.name for path in tmp_path.iterdir()] == ["kept.py"]


def test_a_folder_with_a_file_of_the_user_s_own_stays(tmp_path: Path) -> None:
    write(tmp_path, {"model/a.py": "1\n"})
    (tmp_path / "model/notes.txt").write_text("mine")
    write(tmp_path, {}, obsolete=["model/a.py"], written={"model/a.py": digest("1\n")})
    assert (tmp_path / "model/notes.txt").exists()


@pytest.mark.parametrize("path", ["../out.py", "/etc/out.py", "a/../../out.py", "a\\b.py", "c:x.py", ""])
def test_a_path_that_leads_out_of_the_root_is_refused(tmp_path: Path, path: str) -> None:
    with pytest.raises(CodegenError) as caught:
        write(tmp_path, {path: "1\n"})
    assert code_of(caught.value) == "E101"


def test_a_link_that_leads_out_of_the_root_is_refused(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "root/link").symlink_to(tmp_path)
    with pytest.raises(CodegenError) as caught:
        write(tmp_path / "root", {"link/out.py": "1\n"})
    assert code_of(caught.value) == "E101"


def test_installed_packages_are_never_written_into() -> None:
    with pytest.raises(CodegenError) as caught:
        write(Path(sysconfig.get_path("purelib")) / "adapter_models", {"a.py": "1\n"})
    assert code_of(caught.value) == "E103"

"""The archives: what is in the wheel, and that it works away from the checkout.

The wheel is built once per worker and unpacked into a folder that stands first on the path, so that these tests see the
archive and never the checkout. `tox run -e packaging` asks the same of a real installation into a fresh environment. The second
distribution, adapter-models, holds the runtime and the models without the generator.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest

from runtime_alone import GENERATOR

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("adapter_codegen", "adapter_runtime", "adapter_models", "adapter_templates")
SOURCE_ROOTS = ("codegen", "generated", "templates")
RUNTIME_PACKAGES = ("adapter_runtime", "adapter_models")

pytest.importorskip("build", reason="the extra `test` brings the builder of archives")


def build(kind: str, folder: Path, project: Path = ROOT) -> Path:
    command = [sys.executable, "-m", "build", f"--{kind}", "--no-isolation", "--outdir", str(folder), str(project)]
    result = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    assert result.returncode == 0, result.stdout + result.stderr
    (archive,) = folder.glob("*.whl" if kind == "wheel" else "*.tar.gz")
    return archive


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("wheel", tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="session")
def runtime_wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("wheel", tmp_path_factory.mktemp("runtime_wheel"), ROOT / "codegen")


@pytest.fixture(scope="session")
def names(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


@pytest.fixture(scope="session")
def unpacked(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unpacked")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        (path,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return Parser().parsestr(archive.read(path).decode())


def requirements(wheel: Path) -> set[str]:
    return set(metadata(wheel).get_all("Requires-Dist", []))


def run_python(code: str, unpacked: Path, cwd: Path) -> str:
    environment = os.environ | {"PYTHONPATH": str(unpacked), "PYTHONDONTWRITEBYTECODE": "1"}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=cwd, env=environment)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def files_of(package: str) -> set[str]:
    """The files of a package in the checkout, as paths in the wheel."""
    (folder,) = (ROOT / root / package for root in SOURCE_ROOTS if (ROOT / root / package).is_dir())
    return {
        f"{package}/{file.relative_to(folder).as_posix()}"
        for file in folder.rglob("*")
        if file.is_file() and not any(part == "__pycache__" or part.startswith(".") for part in file.parts)
    }


def test_wheel_holds_the_four_packages_and_nothing_else(names: list[str]) -> None:
    assert {name.partition("/")[0] for name in names if ".dist-info/" not in name} == set(PACKAGES)


@pytest.mark.parametrize("package", PACKAGES)
def test_wheel_holds_every_file_of_the_package(package: str, names: list[str]) -> None:
    assert files_of(package) <= set(names)


@pytest.mark.parametrize(
    "path",
    [
        "adapter_codegen/py.typed",
        "adapter_runtime/py.typed",
        "adapter_models/py.typed",
        "adapter_codegen/plan/overrides.toml",
        "adapter_codegen/plan/verdicts.json",
        "adapter_models/manifest.json",
    ],
)
def test_wheel_holds_the_data_file(path: str, names: list[str]) -> None:
    assert path in names


def test_the_wheel_is_small(wheel: Path) -> None:
    assert wheel.stat().st_size < 5e6


def test_wheel_holds_the_templates(names: list[str]) -> None:
    assert [name for name in names if name.startswith("adapter_templates/") and name.endswith(".jinja")]


def test_wheel_carries_the_licence_and_the_command(names: list[str], wheel: Path) -> None:
    (licence,) = (name for name in names if name.endswith("/licenses/LICENSE"))
    (notice,) = (name for name in names if name.endswith("/licenses/NOTICE"))
    (commands,) = (name for name in names if name.endswith("/entry_points.txt"))
    with zipfile.ZipFile(wheel) as archive:
        assert archive.read(licence) == (ROOT / "LICENSE").read_bytes()
        assert archive.read(notice) == (ROOT / "NOTICE").read_bytes()
        assert b"adapter-codegen = adapter_codegen.cli:main" in archive.read(commands)


def test_metadata_pins_the_release_line_of_the_generated_files(wheel: Path) -> None:
    (transformers,) = (requirement for requirement in requirements(wheel) if requirement.startswith("transformers"))
    assert transformers == "transformers<5.24,>=5.23.0"
    stated = re.search(r'^license = "(.+)"$', (ROOT / "pyproject.toml").read_text("utf-8"), re.MULTILINE)
    assert stated is not None and metadata(wheel)["License-Expression"] == stated[1]


def test_models_import_from_the_wheel_in_another_folder(unpacked: Path, tmp_path: Path) -> None:
    code = "import adapter_models; print(adapter_models.__file__, callable(adapter_models.init))"
    assert run_python(code, unpacked, tmp_path) == f"{unpacked / 'adapter_models' / '__init__.py'} True"


def test_importing_the_models_loads_no_package_of_the_generator(unpacked: Path, tmp_path: Path) -> None:
    code = f"import sys, adapter_models; print([name for name in {GENERATOR} if name in sys.modules])"
    assert run_python(code, unpacked, tmp_path) == "[]"


def test_importing_the_models_is_lazy(unpacked: Path, tmp_path: Path) -> None:
    code = (
        "import sys, adapter_models; print([name for name in sys.modules if name.startswith('transformers.models.')])"
    )
    assert run_python(code, unpacked, tmp_path) == run_python(
        code.replace("adapter_models", "transformers", 1), unpacked, tmp_path
    )


def test_tool_runs_from_the_wheel_in_another_folder(unpacked: Path, tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(unpacked)}
    command = [sys.executable, "-m", "adapter_codegen", "--help"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert result.returncode == 0, result.stderr
    assert "add-model" in result.stdout


def test_sdist_holds_what_is_needed_to_test_and_document(tmp_path: Path) -> None:
    with tarfile.open(build("sdist", tmp_path)) as archive:
        top = {Path(name).parts[1] for name in archive.getnames() if len(Path(name).parts) > 1}
    assert {*SOURCE_ROOTS, "tests", "docs", "pyproject.toml", "tox.ini", "constraints.txt", "LICENSE"} <= top


# The runtime alone: adapter-models


def test_the_runtimes_wheel_holds_two_packages_as_they_are_in_the_other(wheel: Path, runtime_wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as whole, zipfile.ZipFile(runtime_wheel) as part:
        files = {name for name in part.namelist() if ".dist-info/" not in name}
        assert {name.partition("/")[0] for name in files} == set(RUNTIME_PACKAGES)
        assert files == {name for name in whole.namelist() if name.partition("/")[0] in RUNTIME_PACKAGES}
        assert [name for name in files if part.read(name) != whole.read(name)] == []


def test_the_runtimes_wheel_requires_what_the_other_does_without_the_generators_packages(
    wheel: Path, runtime_wheel: Path
) -> None:
    def name(requirement: str) -> str:
        return re.split(r"[^\w.-]", requirement)[0]

    missing = requirements(wheel) - requirements(runtime_wheel)
    without_extras = {name(requirement) for requirement in missing if "extra ==" not in requirement}
    assert without_extras == {"black", "click", "jinja2", "libcst", "platformdirs", "rich", "tomli"}
    assert requirements(runtime_wheel) <= requirements(wheel)


def test_both_wheels_state_the_same_release_and_licence(wheel: Path, runtime_wheel: Path) -> None:
    for field in ("Version", "License-Expression", "Requires-Python", "Author"):
        assert metadata(wheel)[field] == metadata(runtime_wheel)[field]
    with zipfile.ZipFile(runtime_wheel) as archive:
        for file in ("LICENSE", "NOTICE"):
            (path,) = (name for name in archive.namelist() if name.endswith(f".dist-info/licenses/{file}"))
            assert archive.read(path) == (ROOT / file).read_bytes()


@pytest.fixture(scope="session")
def site_without_the_generator(runtime_wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The packages of this environment (as links) without the generator's, and the runtime's wheel unpacked."""
    folder = tmp_path_factory.mktemp("site")
    for entry in sorted({Path(sysconfig.get_path(kind)) for kind in ("purelib", "platlib")}):
        for package in entry.iterdir():
            name = re.split(r"[-.]", package.name)[0].lower()
            if name not in GENERATOR and not name.startswith("adapter_") and package.suffix != ".pth":
                (folder / package.name).symlink_to(package)
    with zipfile.ZipFile(runtime_wheel) as archive:
        archive.extractall(folder)
    return folder


def test_the_runtime_trains_and_serves_where_the_generator_is_not_installed(
    site_without_the_generator: Path, tmp_path: Path
) -> None:
    environment = os.environ | {"PYTHONPATH": str(site_without_the_generator), "PYTHONDONTWRITEBYTECODE": "1"}
    program = ROOT / "tests" / "runtime_alone.py"
    command = [sys.executable, "-S", str(program), str(tmp_path)]  # -S: without this environment's own packages
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1] == f"{metadata_version(site_without_the_generator)} served"


def metadata_version(site: Path) -> str:
    (folder,) = site.glob("adapter_models-*.dist-info")
    return folder.name.removeprefix("adapter_models-").removesuffix(".dist-info")

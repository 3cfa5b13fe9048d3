"""The wheel: it carries everything, and works in an environment that has nothing of the checkout."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import stoker

ROOT = Path(__file__).parents[2]


def run(*command: str | Path) -> str:
    """Run a command and return what it printed."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A wheel of this checkout, built elsewhere: a build leaves files beside its sources."""
    copy = tmp_path_factory.mktemp("checkout")
    for name in ("pyproject.toml", "LICENSE", "README.md"):
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, copy)
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
    shutil.copytree(ROOT / "src", copy / "src", ignore=ignored)
    options = ("--no-deps", "--no-index", "--no-build-isolation", "--wheel-dir", copy / "dist")
    run(sys.executable, "-m", "pip", "wheel", "--quiet", *options, copy)
    (built,) = (copy / "dist").glob("*.whl")
    yield built
    shutil.rmtree(copy)


def test_the_wheel_carries_every_file_of_the_package(wheel: Path) -> None:
    package = ROOT / "src" / "stoker"
    sources = {
        str(file.relative_to(package.parent))
        for file in package.rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }

    with zipfile.ZipFile(wheel) as archive:
        carried = {name for name in archive.namelist() if ".dist-info/" not in name}
        told = [name for name in archive.namelist() if name.endswith(".dist-info/licenses/LICENSE")]

    assert carried == sources
    assert "stoker/py.typed" in carried
    assert told


def test_the_installed_wheel_runs_without_the_checkout(wheel: Path, tmp_path: Path) -> None:
    environment = tmp_path / "empty"
    run(sys.executable, "-m", "venv", "--without-pip", environment)
    python = environment / "bin" / "python"
    run(
        sys.executable,
        "-m",
        "pip",
        "--python",
        python,
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
        wheel,
    )
    # its dependencies are those of the environment that tests, for lack of a network
    installed = Path(sysconfig.get_path("purelib", vars={"base": environment, "platbase": environment}))
    (installed / "dependencies.pth").write_text(sysconfig.get_path("purelib"))

    version = run(environment / "bin" / "stoker", "--version")
    imported = run(python, "-c", "import stoker; print(stoker.__file__)")

    assert version == f"stoker {stoker.__version__}\n"
    assert Path(imported.strip()) == installed / "stoker" / "__init__.py"

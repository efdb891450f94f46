"""Archives hold the artifact and the handler, whatever the paths are called."""

from __future__ import annotations

import json
import tempfile
import zipfile
from pathlib import Path

import pytest

from contracts.errors import ArtifactError
from serve.archive import HANDLER, archive_version, deployed_archives, pack
from tests.serve.conftest import make_settings

pytestmark = pytest.mark.unit


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    folder = tmp_path / "20250101 a,b [1]*"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"\x00\x01")
    (folder / "spec.yaml").write_text("name: x\n")
    return folder


def test_an_archive_holds_the_artifact_and_the_handler(artifact: Path, tmp_path: Path) -> None:
    archive = pack(artifact, "notification", "20250101-1", tmp_path / "out [x]")
    assert archive == tmp_path / "out [x]" / "notification.mar"
    with zipfile.ZipFile(archive) as content:
        assert content.read("model.safetensors") == b"\x00\x01"
        assert content.read("handler.py") == HANDLER.read_bytes()
        manifest = json.loads(content.read("MAR-INF/MANIFEST.json"))
    assert manifest["model"]["modelName"] == "notification"
    assert manifest["model"]["handler"] == "handler.py"
    assert archive_version(archive) == "20250101-1"
    assert [path.name for path in archive.parent.iterdir()] == ["notification.mar"]


def test_a_new_archive_replaces_the_old_one(artifact: Path, tmp_path: Path) -> None:
    pack(artifact, "x", "1", tmp_path / "out")
    (artifact / "spec.yaml").unlink()
    archive = pack(artifact, "x", "2", tmp_path / "out")
    assert archive_version(archive) == "2"
    with zipfile.ZipFile(archive) as content:
        assert "spec.yaml" not in content.namelist()


def test_a_folder_of_the_tenants_name_among_temporary_files_is_left_alone(artifact: Path, tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="pacer-tenant-") as precious:
        (Path(precious) / "file").write_text("precious")
        pack(artifact, Path(precious).name, "1", tmp_path / "out")
        assert (Path(precious) / "file").read_text() == "precious"


@pytest.mark.parametrize("tenant", ["", "../x", "a b", "-x", "a,b", "x" * 65, "ä", "x\n"])
def test_a_tenant_that_cannot_stand_in_a_url_is_refused(artifact: Path, tmp_path: Path, tenant: str) -> None:
    with pytest.raises(ArtifactError, match="tenant"):
        pack(artifact, tenant, "1", tmp_path / "out")


@pytest.mark.parametrize("version", ["", "../1", "1 2", '1"'])
def test_a_version_that_cannot_name_one_is_refused(artifact: Path, tmp_path: Path, version: str) -> None:
    with pytest.raises(ArtifactError, match="version"):
        pack(artifact, "x", version, tmp_path / "out")


def test_an_artifact_that_is_not_there_is_an_error_with_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "none", tmp_path / "empty"):
        with pytest.raises(ArtifactError, match="make train"):
            pack(path, "x", "1", tmp_path / "out")


def test_every_tenants_archive_is_found_and_nothing_else(artifact: Path, tmp_path: Path) -> None:
    settings = make_settings(tmp_path / "var")
    assert deployed_archives(settings) == {}
    one = pack(artifact, "one", "1", settings.workspace("one").archives)
    two = pack(artifact, "two", "1", settings.workspace("two").archives)
    pack(artifact, "three", "1", settings.workspace("one").archives)
    assert deployed_archives(settings) == {"one": one, "two": two}


@pytest.mark.parametrize("content", [b"", b"no zip"])
def test_a_file_that_is_no_archive_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.mar").write_bytes(content)
    with pytest.raises(ArtifactError, match=r"x\.mar"):
        archive_version(tmp_path / "x.mar")

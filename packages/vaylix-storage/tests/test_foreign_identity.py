"""Files of two directories are mixed: the one that is foreign is blamed, and nothing else."""

from __future__ import annotations

import pytest

from vaylix_storage.errors import ForeignFormatError
from vaylix_storage.offline import dump_log, inspect, verify_directory
from vaylix_storage.offline.testing import Sample


def filled(seed: int) -> Sample:
    sample = Sample(seed=seed)
    sample.fill(clean=True)
    return sample


def test_a_foreign_identity_is_blamed_and_not_the_data() -> None:
    sample, other = filled(7), filled(8)
    own = sample.memory.content(sample.path / "node.json")
    whole = sample.contents()
    sample.memory.overwrite(
        sample.path / "node.json", other.memory.content(other.path / "node.json")
    )
    before = sample.files()
    found = verify_directory(sample.path, vfs=sample.vfs, provider=sample.provider())
    (problem,) = found.problems
    assert (problem.path, problem.code) == (sample.path / "node.json", "ENG-009")
    assert "leave the other files as they are" in problem.remedy
    assert found.report.newest_sequence == 16
    for attempt in (
        sample.open,
        lambda: inspect(sample.path, vfs=sample.vfs, provider=sample.provider()),
        lambda: list(dump_log(sample.path, vfs=sample.vfs, provider=sample.provider())),
    ):
        with pytest.raises(ForeignFormatError, match="than all files of this directory") as caught:
            attempt()
        assert caught.value.path == sample.path / "node.json"
    assert sample.files() == before
    sample.memory.overwrite(sample.path / "node.json", own)
    assert sample.contents() == whole


@pytest.mark.parametrize("name", ["manifest.bin", "wal/1-4.wal"])
def test_one_foreign_file_is_blamed_itself(name: str) -> None:
    sample, other = filled(7), filled(8)
    sample.memory.overwrite(sample.path / name, other.memory.content(other.path / name))
    found = verify_directory(sample.path, vfs=sample.vfs, provider=sample.provider())
    assert sample.path / name in {problem.path for problem in found.problems}
    assert sample.path / "node.json" not in {problem.path for problem in found.problems}

"""Scenarios as text. To rewrite them after a change that was meant:

python -m vaylix_replication.testing.transcript packages/vaylix-replication/tests/transcripts/*
"""

from __future__ import annotations

from pathlib import Path

import pytest

from vaylix_replication.testing.transcript import main, run_transcript

TRANSCRIPTS = sorted((Path(__file__).parent / "transcripts").glob("*.txt"))


@pytest.mark.parametrize("path", TRANSCRIPTS, ids=lambda path: path.stem)
def test_the_group_does_what_the_transcript_says(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert run_transcript(text) == text


def test_a_transcript_is_rewritten_in_place(tmp_path: Path) -> None:
    path = tmp_path / "new.txt"
    path.write_text("# why\n> group abc\n> elect\nstale output\n", encoding="utf-8")
    assert main([str(path)]) == 0
    rewritten = path.read_text(encoding="utf-8")
    assert "stale" not in rewritten
    assert "leads term 1" in rewritten

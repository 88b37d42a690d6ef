"""The prompt, driven through a pipe that plays the keyboard."""

from __future__ import annotations

import io
import stat
import sys
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prompt_toolkit.application import create_app_session
from prompt_toolkit.completion import CompleteEvent
from prompt_toolkit.document import Document
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput
from prompt_toolkit.validation import ValidationError

from vaylix_client import ConfigurationError
from vaylix_client.shell._editor import Editor, KeywordCompleter, PhraseLexer, RootWordValidator
from vaylix_client.shell._flags import Flags, shell_settings
from vaylix_client.shell._history import (
    LINES_MAX,
    data_directory,
    decode_history,
    encode_history,
    write_private,
)
from vaylix_client.shell._input import InputInterruptedError
from vaylix_client.shell._loop import run_shell
from vaylix_client.testing import toy_server_thread

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from prompt_toolkit.input import PipeInput


@pytest.fixture
def keyboard() -> Iterator[PipeInput]:
    with create_pipe_input() as pipe, create_app_session(input=pipe, output=DummyOutput()):
        yield pipe


def test_typed_lines_ctrl_c_and_ctrl_d(keyboard: PipeInput, tmp_path: Path) -> None:
    editor = Editor(tmp_path / "history.txt")
    editor.start()
    keyboard.send_text("get a\r")
    assert editor.read_line() == "get a"
    keyboard.send_text("\x03")
    with pytest.raises(InputInterruptedError):
        editor.read_line()
    keyboard.send_text("\x04")
    assert editor.read_line() is None


def test_enter_is_refused_while_the_first_word_is_unknown(
    keyboard: PipeInput, tmp_path: Path
) -> None:
    editor = Editor(tmp_path / "history.txt")
    keyboard.send_text("wat\r\x7f\x7f\x7fping\r")
    assert editor.read_line() == "ping"


def test_a_session_at_the_prompt_keeps_its_history(keyboard: PipeInput, tmp_path: Path) -> None:
    file = tmp_path / "data" / "history.txt"
    out = io.StringIO()
    with toy_server_thread() as server:
        settings = shell_settings(Flags(host="127.0.0.1", port=server.port))
        keyboard.send_text("set k 1\rget k\rget k\rexit\r")
        run_shell(settings, Editor(file), out)
    assert out.getvalue().endswith(
        "OK\nOK\n1\n1\n[INFO] [client.session] received local exit command\n"
    )
    assert file.read_text() == "#V2\nset k 1\nget k\nexit\n"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    again = Editor(file)
    again.start()
    keyboard.send_text("\x1b[A\x1b[A\r")  # Two lines up.
    assert again.read_line() == "get k"


def test_ctrl_c_at_the_prompt_ends_the_session_and_keeps_the_history(
    keyboard: PipeInput, tmp_path: Path
) -> None:
    file = tmp_path / "history.txt"
    out = io.StringIO()
    with toy_server_thread() as server:
        settings = shell_settings(Flags(host="127.0.0.1", port=server.port))
        keyboard.send_text("ping\r\x03")
        run_shell(settings, Editor(file), out)
    assert out.getvalue().endswith(
        "PONG\n[INFO] [client.session] readline interrupted\nExiting...\n"
    )
    assert file.read_text() == "#V2\nping\n"


def test_keys_that_are_no_text_are_reported_and_the_session_goes_on(
    keyboard: PipeInput, tmp_path: Path
) -> None:
    file = tmp_path / "history.txt"
    out = io.StringIO()
    with toy_server_thread() as server:
        settings = shell_settings(Flags(host="127.0.0.1", port=server.port))
        # As a terminal sends them that is not set to UTF-8.
        keyboard.send_bytes(b"get caf\xe9\rping\rexit\r")
        run_shell(settings, Editor(file), out)
    assert out.getvalue().endswith(
        "OK\n[CLI-004] Readline Failure: line editor failure: "
        "stream did not contain valid UTF-8\nPONG\n"
        "[INFO] [client.session] received local exit command\n"
    )
    assert file.read_text() == "#V2\nget caf?\nping\nexit\n"


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("ge", ["get", "getdel", "getex"]),
        ("GE", ["get", "getdel", "getex"]),
        ("show grants ", ["for"]),
        ("show grants for r", ["role"]),
        ("get ", []),
        ("get k", []),
        ("zz", []),
    ],
)
def test_tab_offers_words_of_the_table_only(typed: str, offered: list[str]) -> None:
    document = Document(typed)
    found = list(KeywordCompleter().get_completions(document, CompleteEvent()))
    assert [completion.text for completion in found] == offered
    partial = "" if typed.endswith(" ") else typed.rsplit(maxsplit=1)[-1]
    assert all(completion.start_position == -len(partial) for completion in found)


@pytest.mark.parametrize("line", ["", "  ", "get", "GET k", "exit now", "show nothing"])
def test_known_root_words_pass(line: str) -> None:
    RootWordValidator().validate(Document(line))


@pytest.mark.parametrize("line", ["wat", "wat k", '"get" k', "\u212aeys", "g"])
def test_unknown_root_words_do_not(line: str) -> None:
    with pytest.raises(ValidationError) as caught:
        RootWordValidator().validate(Document(line))
    assert caught.value.message == f"unknown command: {line.split(maxsplit=1)[0]}"


def test_a_command_phrase_is_coloured() -> None:
    fragments = PhraseLexer().lex_document(Document("show grants for user bob"))(0)
    assert fragments == [("class:phrase", "show grants for user"), ("", " bob")]


@given(st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))))
def test_history_survives_the_file(lines: list[str]) -> None:
    typed = [line for line in lines if line]
    kept = [line for n, line in enumerate(typed) if n == 0 or line != typed[n - 1]]
    assert decode_history(encode_history(typed)) == kept[-LINES_MAX:]


def test_history_keeps_the_last_hundred_lines() -> None:
    text = encode_history(str(number) for number in range(LINES_MAX + 1))
    assert text.startswith("#V2\n1\n")
    assert len(decode_history(text)) == LINES_MAX


def test_private_files_replace_and_are_private(tmp_path: Path) -> None:
    file = tmp_path / "f"
    file.write_text("old")
    file.chmod(0o644)
    write_private(file, "new")
    assert file.read_text() == "new"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [file]


def test_the_data_directory_of_each_platform() -> None:
    home = {"HOME": "/home/u"}
    assert str(data_directory("linux", home)) == "/home/u/.local/share/vaylix"
    assert str(data_directory("linux", {"XDG_DATA_HOME": "/x", **home})) == "/x/vaylix"
    assert str(data_directory("linux", {"XDG_DATA_HOME": "rel", **home})).startswith("/home/u")
    darwin = "/home/u/Library/Application Support/dev.vaylix.vaylix"
    assert str(data_directory("darwin", home)) == darwin
    assert data_directory("win32", {"APPDATA": "A"}).parts == ("A", "vaylix", "vaylix", "data")
    with pytest.raises(ConfigurationError) as caught:
        data_directory(sys.platform, {})
    assert caught.value.code == "CLI-005"

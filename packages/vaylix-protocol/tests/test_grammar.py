"""The command language: golden lines, its table, help, completion and rendering."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vaylix_protocol import (
    COMMANDS,
    ROOT_WORDS,
    Bool,
    Command,
    CommandError,
    CommandSpec,
    CountReply,
    Entries,
    ErrorCode,
    ErrorReply,
    ExecResults,
    Exit,
    Expiration,
    Get,
    Help,
    Integer,
    Json,
    NotFound,
    Ok,
    OutputMode,
    Queued,
    Reply,
    ScanPage,
    Set,
    SetCondition,
    Strings,
    TimeUnit,
    Value,
    command_phrase,
    completions,
    error_reply,
    format_reply,
    help_text,
    parse_command,
    usage_hint,
)
from vaylix_protocol import commands as c

Row = dict[str, Any]
UNIT_NAMES = {TimeUnit.SECONDS: "s", TimeUnit.MILLISECONDS: "ms"}


def as_field(name: str, value: object) -> object:
    """The form that the golden data gives an attribute of a command."""
    if isinstance(value, bytes):
        return value.hex() if name == "value" else value.decode()
    if isinstance(value, Expiration):
        return {"unit": UNIT_NAMES[value.unit], "amount": value.amount}
    if isinstance(value, SetCondition):
        return None if value is SetCondition.NONE else value.name.lower()
    if isinstance(value, tuple):
        return [
            [item[0].decode(), item[1].hex()] if isinstance(item, tuple) else item.decode()
            for item in value
        ]
    return value


def test_lines_parse_as_recorded(text_row: Row) -> None:
    if not text_row["ok"]:
        with pytest.raises(CommandError) as caught:
            parse_command(text_row["input"])
        error = caught.value
        assert error.error_code.code == text_row["code"]
        assert error.error_code.title == text_row["name"]
        assert error.message == text_row["message"]
        return

    command = parse_command(text_row["input"])

    if isinstance(command, Help | Exit):
        assert text_row["opcode"] is None
        assert type(command).__name__.upper() == text_row["command"]
        return
    assert command.opcode == text_row["opcode"]
    fields = {name: getattr(command, name) for name in command.__struct_fields__}
    assert {name: as_field(name, value) for name, value in fields.items()} == text_row["fields"]


@given(st.text(max_size=40))
def test_any_line_is_a_command_or_a_command_error(line: str) -> None:
    for text in (line, f"set {line}", f'set k "{line}', f"getex k {line}", f"scan {line}"):
        try:
            parse_command(text)
        except CommandError as error:
            assert error.error_code.code.startswith("CMD-")  # noqa: PT017 - either is right


@given(st.text(max_size=20), st.text(max_size=20))
def test_any_text_can_be_written_in_quotes(key: str, value: str) -> None:
    def quote(text: str) -> str:
        return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'

    command = parse_command(f"SET {quote(key)}{quote(value)}")

    assert command == Set(key.encode(), value.encode())


@pytest.mark.parametrize("line", ["GET \udce9", "SCAN 0 MATCH \udce9", "AUTH a \udce9", "\udce9"])
def test_a_line_that_is_no_text_is_refused_as_a_line(line: str) -> None:
    with pytest.raises(CommandError, match="utf-8") as refusal:
        parse_command(line)
    assert refusal.value.error_code.code == "TRN-012"


def test_only_ascii_letters_are_folded() -> None:
    assert parse_command("GeT Key") == Get(b"Key")
    with pytest.raises(CommandError, match="unknown command: \u212aeys"):
        parse_command("\u212aEYS")


def test_a_number_may_be_as_long_as_it_likes_and_is_read_quickly() -> None:
    assert parse_command("expire k +" + "0" * 100_000 + "7") == c.Expire(b"k", 7)
    with pytest.raises(CommandError, match="invalid integer for seconds"):
        parse_command("expire k 1" + "0" * 100_000)


# The table.


def line_for(usage: str) -> str:
    """Write a line for a usage: options left out, operands invented."""
    required = re.sub(r" \[[^\]]*\]", "", usage)
    return re.sub(r"<[^>]*>", "1", required)


@pytest.mark.parametrize("spec", COMMANDS, ids=lambda spec: spec.name)
def test_every_row_parses_to_its_opcode_and_reply(spec: CommandSpec) -> None:
    command = parse_command(line_for(spec.usage))

    if isinstance(command, Help | Exit):
        assert (spec.opcode, spec.reply_kind) == (None, None)
    else:
        assert command.opcode == spec.opcode
        assert c.reply_kind_of(command) == spec.reply_kind


def test_the_table_is_complete_and_in_order() -> None:
    names = [spec.name for spec in COMMANDS]
    opcodes = {spec.opcode for spec in COMMANDS if spec.opcode is not None}

    assert len(names) == len(set(names)) == 70
    assert opcodes == set(range(0x01, 0x42))
    assert {name.split()[0] for name in names} == ROOT_WORDS
    aliases = {spec.name: spec.alias_of for spec in COMMANDS if spec.alias_of}
    assert aliases == {"delete": "del", "flushdb": "clear", "quit": "exit"}
    assert all(spec.summary and spec.usage.startswith(spec.name) for spec in COMMANDS)


def test_help_is_as_recorded(help_row: Row) -> None:
    assert help_row["output"].startswith(help_text() + "\n[INFO]")


# Line editing.


@pytest.mark.parametrize(
    ("line", "candidates"),
    [
        ("sh", ("show",)),
        ("SHOW ", ("cluster", "grants", "replication", "roles", "users")),
        ("show g", ("grants",)),
        ("show grants ", ("for",)),
        ("show grants for ", ("role", "user")),
        ("get ", ()),
        ("get k", ()),
        ("create user bob ", ()),
        ("ex", ("exec", "exists", "exit", "expire")),
        ("nope ", ()),
    ],
)
def test_completions_are_keywords_only(line: str, candidates: tuple[str, ...]) -> None:
    assert completions(line) == candidates


def test_an_empty_line_completes_to_all_root_words() -> None:
    assert set(completions("")) == ROOT_WORDS
    assert list(completions("")) == sorted(completions(""))


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        ("get", "<key>"),
        ("Cluster Join ", "<node-id> <host:port>"),
        ("get k", ""),
        ("dbsize", ""),
        ("create", ""),
        ("", ""),
    ],
)
def test_usage_hints_follow_a_whole_command_name(line: str, hint: str) -> None:
    assert usage_hint(line) == hint


@pytest.mark.parametrize(
    ("line", "phrase"),
    [
        ("SHOW grants for user bob", "SHOW grants for user"),
        ("show grants for", "show grants"),
        ("metrics prom", "metrics prom"),
        ("metricsprom", ""),
        ("get", "get"),
        ("", ""),
    ],
)
def test_the_longest_command_phrase_is_found(line: str, phrase: str) -> None:
    assert command_phrase(line) == phrase


# Rendering.


BINARY = b"\x00\xff\x10"


@pytest.mark.parametrize(
    ("reply", "text"),
    [
        (Ok(), "OK"),
        (NotFound(), "NOT_FOUND"),
        (Queued(), "QUEUED"),
        (Value(b"QUEUED"), "QUEUED"),
        (Value("žluť".encode()), "žluť"),
        (Value(b""), ""),
        (Value(BINARY), "0x00ff10"),
        (Bool(True), "true"),
        (Bool(False), "false"),
        (CountReply(2**64 - 1), "18446744073709551615"),
        (Integer(-2), "-2"),
        (Strings((b"alice", None, b"\xff")), "alice, (nil), 0xff"),
        (Strings(()), ""),
        (ScanPage(2, (b"a", b"b")), "cursor=2, keys=[a, b]"),
        (ScanPage(0, ()), "cursor=0, keys=[(empty)]"),
        (ExecResults(()), ""),
        (Json(b"{}"), "{}"),
        (error_reply(ErrorCode.SRV_017), "ERROR [SRV-017] Permission Denied: permission denied"),
        (
            ExecResults((ScanPage(0, ()), Entries(((b"k", b"v"), (b"a", BINARY))), Value(b"x"))),
            "cursor=0, keys=[]\nk=v, a=0x00ff10\nx",
        ),
    ],
)
@pytest.mark.parametrize("mode", list(OutputMode))
def test_replies_other_than_entries_look_alike_in_every_mode(
    reply: Reply, text: str, mode: OutputMode
) -> None:
    assert format_reply(reply, mode) == text


CITY = Entries(((b"name", b"alice"), (b"city", b"paris")))


@pytest.mark.parametrize(
    ("entries", "mode", "text"),
    [
        (CITY, OutputMode.PLAIN, "city=paris, name=alice"),
        (CITY, OutputMode.TABLE, "key  | value\n-----+------\ncity | paris\nname | alice"),
        (
            CITY,
            OutputMode.JSON,
            (
                '[\n  {\n    "key": "city",\n    "value": "paris"\n  },\n'
                '  {\n    "key": "name",\n    "value": "alice"\n  }\n]'
            ),
        ),
        (Entries(()), OutputMode.PLAIN, ""),
        (Entries(()), OutputMode.TABLE, "key | value\n----+------"),
        (Entries(()), OutputMode.JSON, "[]"),
        (Entries(((b"k", BINARY),)), OutputMode.PLAIN, "k=0x00ff10"),
        (Entries(((b"k", b"2"), (b"k", b"1"))), OutputMode.PLAIN, "k=1, k=2"),
        (
            Entries((("žluť".encode(), "日本".encode()), (b"a", "e\u0301".encode()))),
            OutputMode.TABLE,
            "key  | value\n-----+------\na    | e\u0301    \nžluť | 日本 ",
        ),
    ],
)
def test_entries_are_sorted_and_shown_by_mode(
    entries: Entries, mode: OutputMode, text: str
) -> None:
    assert format_reply(entries, mode) == text


LIST = Entries(
    (
        (b"a", b"1"),
        (b"alice", b"1"),
        (b"city", b"paris"),
        (b"empty", b""),
        (b"uni", "žluť, (nil)".encode()),
        (b"x", b"3"),
        (b"y", b"1"),
    )
)
USERS = Entries(((b"vaylix", b"roles=admin disabled=false"),))
HEALTH = Entries(
    (
        (b"status", b"ready"),
        (b"ready", b"true"),
        (b"reason", b"none"),
        (b"role", b"standalone"),
        (b"maintenance_mode", b"false"),
    )
)
# What the server of the recorded sessions must have answered.
SESSIONS: dict[str, list[Reply]] = {
    "get_binary": [Value(BINARY)],
    "get_miss": [NotFound()],
    "set_variants": [Bool(True), Bool(False), Value(b"1"), NotFound(), Bool(False)],
    "mget": [Strings((b"paris", None, BINARY, b"", "žluť, (nil)".encode()))],
    "scan": [
        ScanPage(2, (b"a", b"alice")),
        ScanPage(4, (b"bin", b"city")),
        ScanPage(0, ()),
    ],
    "show_users": [USERS],
    "health": [HEALTH],
    "list_empty": [Entries(())],
    "transaction_list": [Ok(), Queued(), ExecResults((LIST,))],
    "list_text": [LIST],
}


def test_sessions_are_rendered_as_recorded(rendered_row: Row) -> None:
    replies = SESSIONS[rendered_row["name"]]
    mode = OutputMode(rendered_row["mode"])
    output = "".join(format_reply(reply, mode) + "\n" for reply in replies)

    assert rendered_row["output"].startswith(output + "[INFO]")


def test_data_is_text_or_hexadecimal() -> None:
    assert format_reply(Value(b"plain")) == "plain"
    assert format_reply(Value(b"\xff\x00")) == "0xff00"


def test_errors_of_newer_servers_are_shown_as_they_are() -> None:
    assert format_reply(ErrorReply("SRV-999", "New", "text")) == "ERROR [SRV-999] New: text"


def test_passwords_are_not_shown_by_repr() -> None:
    for command in (c.Auth("u", "secret"), c.CreateUser("u", "secret")):
        assert "secret" not in repr(command)
    line: Command = c.AlterUserPassword("u", "secret")
    assert repr(line) == "AlterUserPassword(username='u', password=<hidden>)"

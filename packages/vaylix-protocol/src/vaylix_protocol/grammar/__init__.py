"""The text language: parse a line into a command, show a reply, and one table behind both."""

from vaylix_protocol.grammar._completion import command_phrase, completions, usage_hint
from vaylix_protocol.grammar._errors import Conflict
from vaylix_protocol.grammar._format import (
    OutputMode,
    commands_markdown,
    format_reply,
    help_text,
)
from vaylix_protocol.grammar._parser import ROOT_WORDS, parse_command
from vaylix_protocol.grammar._table import COMMANDS, CommandSpec

__all__ = [
    "COMMANDS",
    "ROOT_WORDS",
    "CommandSpec",
    "Conflict",
    "OutputMode",
    "command_phrase",
    "commands_markdown",
    "completions",
    "format_reply",
    "help_text",
    "parse_command",
    "usage_hint",
]

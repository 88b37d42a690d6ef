"""The prompt: editing, completion, hints and history, by prompt_toolkit (commands spec 12.6)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prompt_toolkit import PromptSession
from prompt_toolkit.application import get_app
from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.history import InMemoryHistory
from prompt_toolkit.layout.processors import AfterInput
from prompt_toolkit.lexers import Lexer
from prompt_toolkit.styles import Style
from prompt_toolkit.validation import ValidationError, Validator

from vaylix_client._os_errors import describe_os_error
from vaylix_client.errors import connect_error
from vaylix_client.shell._history import (
    decode_history,
    default_history_file,
    encode_history,
    write_private,
)
from vaylix_client.shell._input import NOT_TEXT, InputInterruptedError, UnreadableLineError
from vaylix_protocol import ErrorCode
from vaylix_protocol.grammar import ROOT_WORDS, command_phrase, completions, usage_hint

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from prompt_toolkit.document import Document
    from prompt_toolkit.formatted_text import StyleAndTextTuples
    from prompt_toolkit.input import Input
    from prompt_toolkit.output import Output

__all__ = ["Editor", "KeywordCompleter", "PhraseLexer", "RootWordValidator"]

_PROMPT = "vaylix> "
_STYLE = Style.from_dict({"phrase": "bold ansicyan", "hint": "ansibrightblack"})


class KeywordCompleter(Completer):
    """Offers words of the command table, never operands."""

    def get_completions(
        self,
        document: Document,
        complete_event: CompleteEvent,  # noqa: ARG002 - the interface of the base class
    ) -> Iterable[Completion]:
        """Offer what can stand at the end of the text before the cursor."""
        typed = document.text_before_cursor
        partial = "" if not typed or typed[-1].isspace() else typed.split()[-1]
        for word in completions(typed):
            yield Completion(word, start_position=-len(partial))


class RootWordValidator(Validator):
    """Refuses Enter while the first word is no root word of the language."""

    def validate(self, document: Document) -> None:
        """Raise `ValidationError` for an unknown first word."""
        words = document.text.split(maxsplit=1)
        # Only ASCII is folded, so a word with anything else in it cannot be a root word.
        if words and not (words[0].isascii() and words[0].lower() in ROOT_WORDS):
            message = ErrorCode.CMD_002.message(command=words[0])
            raise ValidationError(len(document.text), message)


class PhraseLexer(Lexer):
    """Shows a command phrase at the start of a line in bold cyan."""

    def lex_document(self, document: Document) -> Callable[[int], StyleAndTextTuples]:
        """Colour line by line; only the first one can start with a command."""
        lines = document.lines

        def coloured(number: int) -> StyleAndTextTuples:
            line = lines[number]
            phrase = command_phrase(line) if number == 0 else ""
            return [("class:phrase", phrase), ("", line[len(phrase) :])]

        return coloured


class Editor:
    """Lines typed at a prompt, with a history that is saved at a normal end.

    `history_file`, `terminal_input` and `terminal_output` are for tests.
    """

    def __init__(
        self,
        history_file: Path | None = None,
        *,
        terminal_input: Input | None = None,
        terminal_output: Output | None = None,
    ) -> None:
        self._history_file = default_history_file() if history_file is None else history_file
        self._make_directory()
        self._history = InMemoryHistory()
        self._session: PromptSession[str] = PromptSession(
            _PROMPT,
            history=self._history,
            completer=KeywordCompleter(),
            complete_while_typing=False,
            validator=RootWordValidator(),
            validate_while_typing=False,
            lexer=PhraseLexer(),
            style=_STYLE,
            input_processors=[AfterInput(_hint, style="class:hint")],
            input=terminal_input,
            output=terminal_output,
        )

    def start(self) -> None:
        """Load the history; a missing or damaged file is no reason to stop."""
        try:
            text = self._history_file.read_text(encoding="utf-8", errors="replace")
        except OSError:
            return
        for line in decode_history(text):
            self._history.append_string(line)

    def read_line(self) -> str | None:
        """Return the next line, `None` for Ctrl-D. Raise `InputInterruptedError` for Ctrl-C.

        Raise `UnreadableLineError` for bytes that are no text, which come as lone surrogates.
        """
        try:
            line = self._session.prompt()
            line.encode()
        except EOFError:
            return None
        except KeyboardInterrupt:
            raise InputInterruptedError from None
        except UnicodeEncodeError as error:
            raise UnreadableLineError(NOT_TEXT) from error
        return line

    def finish(self) -> None:
        """Save the history."""
        try:
            write_private(self._history_file, encode_history(self._history.get_strings()))
        except OSError as error:
            raise connect_error(describe_os_error(error)) from error

    def _make_directory(self) -> None:
        try:
            self._history_file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise connect_error(describe_os_error(error)) from error


def _hint() -> str:
    hint = usage_hint(get_app().current_buffer.text)
    return f" {hint}" if hint else ""

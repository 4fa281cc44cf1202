"""The text of a ``config.pbtxt``: where each field stands, and which words protobuf does not know.

Protobuf's parser stops at the first fault and forgets where values stood. This module walks the same text along
protobuf's descriptors, so that every fault is told in one run and a later rule can point at the line it speaks
about. It judges words and blocks; values are protobuf's business, see ``trireme.repository.model_config``.

Source of the grammar: Protocol Buffers, "Text Format Language Specification".
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field

from google.protobuf.descriptor import Descriptor, FieldDescriptor


@dataclass(frozen=True, slots=True)
class Place:
    """A line and a column of a text, both counted from 1."""

    line: int
    column: int


@dataclass(frozen=True, slots=True)
class SyntaxProblem:
    """A place where the text is no message of its type, and how to fix it."""

    place: Place
    problem: str
    fix: str


@dataclass(slots=True)
class Node:
    """One field of the text: its place, the scalar it holds, and the fields inside it in order of appearance."""

    place: Place
    value: str | None = None
    fields: dict[str, list[Node]] = field(default_factory=dict)

    def place_of(self, *path: str | int) -> Place:
        """The place of a field inside this one, or of the innermost part of ``path`` that the text has.

        After a field's name, a number picks its n-th occurrence and a word the one whose ``key`` or ``name`` it is.

        Example:
            >>> root.place_of("input", "TEXT", "dims")
        """
        here = [self]
        for part in path:
            found = _select(here, part)
            if not found:
                break
            here = found
        return here[0].place

    def is_called(self, name: str) -> bool:
        return any(node.value == name for label in ("key", "name") for node in self.fields.get(label, []))


def _select(here: list[Node], part: str | int) -> list[Node]:
    if isinstance(part, int):
        return here[part : part + 1]
    return [node for node in here if node.is_called(part)] or here[0].fields.get(part, [])


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word that ``word`` most likely stands for, or nothing where none is close."""
    words = list(known)
    for candidate in words:
        # FP32 for TYPE_FP32, GPU for KIND_GPU: the commonest slip, and too far apart for a similarity measure.
        if candidate.upper().endswith(f"_{word.upper()}"):
            return candidate
    close = difflib.get_close_matches(word, words, n=1, cutoff=0.5)
    return close[0] if close else None


def read_source(
    text: str, descriptor: Descriptor, newer_fields: Collection[str] = ()
) -> tuple[Node, list[SyntaxProblem]]:
    """Walk ``text`` as a message of the type ``descriptor``; give its fields with their places, and what is wrong.

    After a fault that hides where the next field begins the walk ends; what was read until there is given.
    ``newer_fields`` are full names of fields that the descriptor has and the reader of the text does not know yet.
    """
    reader = _Reader(text, newer_fields)
    root = Node(Place(1, 1))
    try:
        reader.read_fields(root, descriptor, closing="")
    except _LostError as lost:
        reader.problems.append(lost.problem)
    return root, reader.problems


_TOKEN = re.compile(
    r"""(?P<skip>\s+|\#[^\n]*)
      | (?P<word>[A-Za-z_][A-Za-z0-9_]*)
      | (?P<number>-?[ ]*[.0-9][A-Za-z0-9.+-]*)
      | (?P<string>"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')
      | (?P<mark>[{}\[\]<>:,;])
      | (?P<foreign>.)""",
    re.VERBOSE,
)
_CLOSING = {"{": "}", "<": ">"}
# Protobuf's own limit.
_DEEPEST = 100
_TEXTUAL = {FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES}


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str
    place: Place


class _LostError(Exception):
    """The walk cannot tell where the next field begins."""

    def __init__(self, place: Place, problem: str, fix: str) -> None:
        super().__init__(problem)
        self.problem = SyntaxProblem(place, problem, fix)


def _tokens(text: str) -> Iterator[_Token]:
    line, line_start = 1, 0
    for match in _TOKEN.finditer(text):
        kind, word = str(match.lastgroup), match.group()
        if kind != "skip":
            yield _Token(kind, word, Place(line, match.start() - line_start + 1))
        if "\n" in word:
            line += word.count("\n")
            line_start = match.start() + word.rindex("\n") + 1
    yield _Token("end", "", Place(line, len(text) - line_start + 1))


class _Reader:
    def __init__(self, text: str, newer_fields: Collection[str]) -> None:
        self.problems: list[SyntaxProblem] = []
        self._newer_fields = newer_fields
        self._depth = 0
        self._rest = _tokens(text)
        self._token = next(self._rest)

    def read_fields(self, parent: Node, descriptor: Descriptor | None, closing: str) -> None:
        """Read fields up to ``closing``. Without a descriptor, inside a field that is itself unknown, all goes."""
        while self._token.text != closing:
            name = self._token
            if name.kind != "word":
                raise _LostError(name.place, f"expected a field name, got {name.text or 'the end'!r}", _hint(name.text))
            known = descriptor.fields_by_name.get(name.text) if descriptor else None
            if descriptor and known is None:
                self._report_unknown(name, descriptor)
            elif known and known.full_name in self._newer_fields:
                self._report(name.place, f"field '{name.text}' is newer than this Triton", "drop it")
            self._advance()
            self._read_field(parent, name, known)
            while self._token.text in (",", ";"):
                self._advance()

    def _read_field(self, parent: Node, name: _Token, known: FieldDescriptor | None) -> None:
        if self._token.text == ":":
            self._advance()
        elif self._token.text not in ("{", "<", "["):
            example = "{ ... }" if known and known.message_type else ": value"
            raise _LostError(
                self._token.place,
                f"expected ':' after '{name.text}', got {self._token.text or 'the end'!r}",
                _hint(self._token.text) if self._token.kind == "foreign" else f"write {name.text}{example}",
            )
        if known is not None and (rival := _rival(parent, known)):
            self._report(name.place, f"'{name.text}' cannot stand beside '{rival}'", "keep one of them")
        found = parent.fields.setdefault(name.text, [])
        if found and known is not None and not known.is_repeated:
            pair = "; write one block for each key" if name.text in ("key", "value") else ""
            self._report(name.place, f"'{name.text}' is given twice in one block", f"keep one of them{pair}")
        if self._token.text == "[":
            self._read_list(found, name, known)
        else:
            found.append(self._read_value(name, known, name.place))

    def _read_list(self, found: list[Node], name: _Token, known: FieldDescriptor | None) -> None:
        self._advance()
        while self._token.text != "]":
            found.append(self._read_value(name, known, self._token.place))
            if self._token.text == ",":
                self._advance()
            elif self._token.text != "]":
                got = self._token.text or "the end"
                raise _LostError(
                    self._token.place, f"expected ',' or ']' in the list of '{name.text}', got {got!r}", _hint(got)
                )
        self._advance()

    def _read_value(self, name: _Token, known: FieldDescriptor | None, place: Place) -> Node:
        token = self._token
        if token.text in _CLOSING:
            if known is not None and known.message_type is None:
                kind = "plain string" if known.type in _TEXTUAL else "plain value"
                self._report(token.place, f"'{name.text}' takes a {kind}, not a block", f"write {name.text}: value")
                known = None
            self._advance()
            self._depth += 1
            if self._depth > _DEEPEST:
                raise _LostError(token.place, f"more than {_DEEPEST} blocks in each other", "close some of them")
            node = Node(place)
            self.read_fields(node, known.message_type if known else None, _CLOSING[token.text])
            self._depth -= 1
            self._advance()
            return node
        if token.kind not in ("word", "number", "string"):
            raise _LostError(
                token.place, f"expected a value for '{name.text}', got {token.text or 'the end'!r}", _hint(token.text)
            )
        if known is not None:
            self._check_scalar(name, token, known)
        node = Node(place, token.text)
        self._advance()
        if token.kind == "string":
            node.value = token.text[1:-1]
            while self._token.kind == "string":  # adjacent strings are one string
                node.value += self._token.text[1:-1]
                self._advance()
        return node

    def _check_scalar(self, name: _Token, token: _Token, known: FieldDescriptor) -> None:
        if known.message_type is not None:
            inner = known.message_type.fields
            value = token.text if token.kind == "string" else f'"{token.text}"'
            block = f"{inner[0].name}: {value}" if len(inner) == 1 else "..."
            self._report(
                token.place, f"'{name.text}' takes a block, not {token.text}", f"write {name.text}: {{ {block} }}"
            )
        elif known.enum_type is not None:
            values = known.enum_type.values
            if token.text not in {form for value in values for form in (value.name, str(value.number))}:
                names = [value.name for value in values]
                meant = nearest(token.text.strip("\"'"), names)
                fix = f"write {meant}" if meant else f"one of {', '.join(names)}"
                self._report(token.place, f"'{token.text}' is no value of '{name.text}'", fix)
        elif known.type in _TEXTUAL and token.kind != "string":
            self._report(token.place, f"'{name.text}' takes a string, not {token.text}", f'write "{token.text}"')
        elif known.type not in _TEXTUAL and token.kind == "string":
            self._report(token.place, f"'{name.text}' takes no string", f"write {token.text[1:-1]} without quotes")

    def _report_unknown(self, name: _Token, descriptor: Descriptor) -> None:
        meant = nearest(name.text, descriptor.fields_by_name)
        fix = f"write '{meant}'" if meant else f"the fields here are {', '.join(descriptor.fields_by_name)}"
        self._report(name.place, f"unknown field '{name.text}'", fix)

    def _report(self, place: Place, problem: str, fix: str) -> None:
        self.problems.append(SyntaxProblem(place, problem, fix))

    def _advance(self) -> None:
        self._token = next(self._rest, self._token)


def _rival(parent: Node, known: FieldDescriptor) -> str | None:
    """A field already read that excludes ``known``: of a oneof only one may be given."""
    if known.containing_oneof is None:
        return None
    rivals = (field.name for field in known.containing_oneof.fields if field.name != known.name)
    return next((name for name in rivals if name in parent.fields), None)


def _hint(got: str) -> str:
    """What most likely stands behind a character that cannot stand where it does."""
    if got == "/":
        return "comments begin with #"
    if got == "\ufeff":
        return "save the file as UTF-8 without a byte-order mark"
    if got and not got.isascii():
        return "write it with the plain ASCII character"
    if got in ('"', "'"):
        return "close the string with the same quote on its line"
    return "check the brackets and separators before this place"

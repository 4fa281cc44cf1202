"""Parser of ``config.pbtxt`` that keeps the place of each field and reports all syntax errors.

Protobuf's parser stops at the first error and discards positions. This module parses the same text along protobuf's
descriptors, so that one run reports every error and a lint rule can point to a line. It checks field names, enum
values and blocks; protobuf checks the other values, see ``trireme.repository.model_config``.

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
    """A position in a text; line and column start at 1."""

    line: int
    column: int


@dataclass(frozen=True, slots=True)
class SyntaxProblem:
    """A syntax error: its place, the problem and the fix."""

    place: Place
    problem: str
    fix: str


@dataclass(slots=True)
class Node:
    """One field of the text: its place, its scalar value, and its inner fields in the order of the text."""

    place: Place
    value: str | None = None
    fields: dict[str, list[Node]] = field(default_factory=dict)

    def place_of(self, *path: str | int) -> Place:
        """The place of the field at ``path``, or of its innermost parent that exists.

        After a field name, a number selects the n-th occurrence, a word the one with this ``key`` or ``name``.

        Example:
            >>> root.place_of("input", "TEXT", "dims")
        """
        nodes = [self]
        for part in path:
            selected = _select(nodes, part)
            if not selected:
                break
            nodes = selected
        return nodes[0].place

    def has_name(self, name: str) -> bool:
        """True if the field's ``key`` or ``name`` is ``name``."""
        return any(node.value == name for label in ("key", "name") for node in self.fields.get(label, []))


def _select(nodes: list[Node], part: str | int) -> list[Node]:
    if isinstance(part, int):
        return nodes[part : part + 1]
    return [node for node in nodes if node.has_name(part)] or nodes[0].fields.get(part, [])


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word most similar to ``word``; None if none is similar."""
    words = list(known)
    for candidate in words:
        # FP32 for TYPE_FP32, GPU for KIND_GPU: a common mistake that the similarity measure misses.
        if candidate.upper().endswith(f"_{word.upper()}"):
            return candidate
    close = difflib.get_close_matches(word, words, n=1, cutoff=0.5)
    return close[0] if close else None


def read_source(
    text: str, descriptor: Descriptor, newer_fields: Collection[str] = ()
) -> tuple[Node, list[SyntaxProblem]]:
    """Parse ``text`` as a message of type ``descriptor``; return its fields with their places, and the syntax errors.

    Parsing ends at an error that hides the start of the next field; the fields up to there are returned.
    ``newer_fields`` are full names of fields in the descriptor that this Triton does not support yet.
    """
    reader = _Reader(text, newer_fields)
    root = Node(Place(1, 1))
    try:
        reader.read_fields(root, descriptor, closing="")
    except _UnrecoverableError as error:
        reader.problems.append(error.problem)
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
_MAX_DEPTH = 100
_STRING_TYPES = {FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES}


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str
    place: Place


class _UnrecoverableError(Exception):
    """A syntax error after which the start of the next field is unknown."""

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
        """Read fields up to ``closing``. Without a descriptor, inside an unknown field, any field is accepted."""
        while self._token.text != closing:
            name = self._token
            if name.kind != "word":
                raise _UnrecoverableError(
                    name.place, f"expected a field name, got {name.text or 'the end'!r}", _hint(name.text)
                )
            known = descriptor.fields_by_name.get(name.text) if descriptor else None
            if descriptor and known is None:
                self._report_unknown(name, descriptor)
            elif known and known.full_name in self._newer_fields:
                self._report(name.place, f"field '{name.text}' is not supported by this Triton version", "remove it")
            self._advance()
            self._read_field(parent, name, known)
            while self._token.text in (",", ";"):
                self._advance()

    def _read_field(self, parent: Node, name: _Token, known: FieldDescriptor | None) -> None:
        if self._token.text == ":":
            self._advance()
        elif self._token.text not in ("{", "<", "["):
            example = "{ ... }" if known and known.message_type else ": value"
            raise _UnrecoverableError(
                self._token.place,
                f"expected ':' after '{name.text}', got {self._token.text or 'the end'!r}",
                _hint(self._token.text) if self._token.kind == "foreign" else f"write {name.text}{example}",
            )
        if known is not None and (conflict := _conflicting_field(parent, known)):
            self._report(name.place, f"'{name.text}' cannot be combined with '{conflict}'", "remove one of them")
        nodes = parent.fields.setdefault(name.text, [])
        if nodes and known is not None and not known.is_repeated:
            pair = ", or write one block for each key" if name.text in ("key", "value") else ""
            self._report(name.place, f"'{name.text}' is set twice in one block", f"remove one of them{pair}")
        if self._token.text == "[":
            self._read_list(nodes, name, known)
        else:
            nodes.append(self._read_value(name, known, name.place))

    def _read_list(self, nodes: list[Node], name: _Token, known: FieldDescriptor | None) -> None:
        self._advance()
        while self._token.text != "]":
            nodes.append(self._read_value(name, known, self._token.place))
            if self._token.text == ",":
                self._advance()
            elif self._token.text != "]":
                got = self._token.text or "the end"
                raise _UnrecoverableError(
                    self._token.place, f"expected ',' or ']' in the list of '{name.text}', got {got!r}", _hint(got)
                )
        self._advance()

    def _read_value(self, name: _Token, known: FieldDescriptor | None, place: Place) -> Node:
        token = self._token
        if token.text in _CLOSING:
            if known is not None and known.message_type is None:
                kind, example = ("plain string", '"..."') if known.type in _STRING_TYPES else ("plain value", "...")
                self._report(token.place, f"'{name.text}' is a {kind}, not a block", f"write {name.text}: {example}")
                known = None
            self._advance()
            self._depth += 1
            if self._depth > _MAX_DEPTH:
                raise _UnrecoverableError(token.place, f"more than {_MAX_DEPTH} nested blocks", "close some of them")
            node = Node(place)
            self.read_fields(node, known.message_type if known else None, _CLOSING[token.text])
            self._depth -= 1
            self._advance()
            return node
        if token.kind not in ("word", "number", "string"):
            raise _UnrecoverableError(
                token.place, f"expected a value for '{name.text}', got {token.text or 'the end'!r}", _hint(token.text)
            )
        if known is not None:
            self._check_scalar(name, token, known)
        node = Node(place, token.text)
        self._advance()
        if token.kind == "string":
            node.value = token.text[1:-1]
            while self._token.kind == "string":  # adjacent strings are concatenated
                node.value += self._token.text[1:-1]
                self._advance()
        return node

    def _check_scalar(self, name: _Token, token: _Token, known: FieldDescriptor) -> None:
        if known.message_type is not None:
            inner = known.message_type.fields
            value = token.text if token.kind == "string" else f'"{token.text}"'
            block = f"{inner[0].name}: {value}" if len(inner) == 1 else "..."
            self._report(
                token.place, f"'{name.text}' is a block, not {token.text}", f"write {name.text}: {{ {block} }}"
            )
        elif known.enum_type is not None:
            values = known.enum_type.values
            if token.text not in {text for value in values for text in (value.name, str(value.number))}:
                names = [value.name for value in values]
                close = nearest(token.text.strip("\"'"), names)
                fix = f"write {close}" if close else f"available: {', '.join(names)}"
                self._report(token.place, f"'{token.text}' is not a value of '{name.text}'", fix)
        elif known.type in _STRING_TYPES and token.kind != "string":
            self._report(token.place, f"'{name.text}' is a string, not {token.text}", f'write "{token.text}"')
        elif known.type not in _STRING_TYPES and token.kind == "string":
            self._report(token.place, f"'{name.text}' is not a string", f"write {token.text[1:-1]} without quotes")

    def _report_unknown(self, name: _Token, descriptor: Descriptor) -> None:
        close = nearest(name.text, descriptor.fields_by_name)
        fix = f"write '{close}'" if close else f"available: {', '.join(descriptor.fields_by_name)}"
        self._report(name.place, f"unknown field '{name.text}'", fix)

    def _report(self, place: Place, problem: str, fix: str) -> None:
        self.problems.append(SyntaxProblem(place, problem, fix))

    def _advance(self) -> None:
        self._token = next(self._rest, self._token)


def _conflicting_field(parent: Node, known: FieldDescriptor) -> str | None:
    """A field already read from the same oneof as ``known``, if any."""
    if known.containing_oneof is None:
        return None
    others = (field.name for field in known.containing_oneof.fields if field.name != known.name)
    return next((name for name in others if name in parent.fields), None)


def _hint(got: str) -> str:
    """The likely fix for an unexpected character."""
    if got == "/":
        return "start comments with #"
    if got == "\ufeff":
        return "save the file as UTF-8 without a byte-order mark"
    if got and not got.isascii():
        return "use the ASCII character"
    if got in ('"', "'"):
        return "close the string with the same quote on the same line"
    return "check the brackets and separators before it"

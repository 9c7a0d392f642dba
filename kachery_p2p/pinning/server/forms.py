"""Forms with files in them (multipart/form-data, RFC 7578), as they come: only the piece at hand is kept."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from email.message import Message

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser

from kachery_p2p.pinning.server import limits
from kachery_p2p.pinning.server.requests import Refusal, bad_request


@dataclass(frozen=True)
class PartBegins:
    """A part begins: what it is called, and of which type it is."""

    name: str
    type: str


@dataclass(frozen=True)
class PartData:
    """Some bytes of it."""

    data: bytes


@dataclass(frozen=True)
class PartEnds:
    """All of it was there."""


Event = PartBegins | PartData | PartEnds


def boundary_of(content_type: str) -> bytes:
    """What stands between the parts of a form.

    Raises:
        Refusal: this is no form.
    """
    message = Message()
    message["content-type"] = content_type
    boundary = message.get_param("boundary")
    if message.get_content_type() != "multipart/form-data" or not isinstance(boundary, str) or not boundary:
        raise bad_request("CAR files are sent as the files of a form (multipart/form-data), as `ipfs dag import` does.")
    return boundary.encode("latin-1", "replace")


class _Parser:
    """Gathers what the library calls back with."""

    def __init__(self, boundary: bytes) -> None:
        self.events: list[Event] = []
        self.ended = False
        self._parts = 0
        self._size = 0
        self._field = bytearray()
        self._value = bytearray()
        self._headers: dict[str, str] = {}
        try:
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._begin,
                    "on_header_field": self._add_field,
                    "on_header_value": self._add_value,
                    "on_header_end": self._end_header,
                    "on_headers_finished": self._end_headers,
                    "on_part_data": self._add_data,
                    "on_part_end": self._end,
                    "on_end": self._end_all,
                },
            )
        except FormParserError as error:
            raise bad_request(f"The form cannot be read: {error}.") from None

    def feed(self, data: bytes) -> list[Event]:
        try:
            self._parser.write(data)
        except FormParserError as error:
            raise bad_request(f"The form cannot be read: {error}.") from None
        found, self.events = self.events, []
        return found

    def _begin(self) -> None:
        self._parts += 1
        if self._parts > limits.MAX_PARTS:
            raise bad_request(f"The form has more than {limits.MAX_PARTS} parts.")
        self._headers, self._size = {}, 0

    def _bounded(self, added: int) -> None:
        self._size += added
        if self._size > limits.MAX_PART_HEAD:
            raise bad_request("The head of a part of the form is too large.")

    def _add_field(self, data: bytes, start: int, end: int) -> None:
        self._bounded(end - start)
        self._field += data[start:end]

    def _add_value(self, data: bytes, start: int, end: int) -> None:
        self._bounded(end - start)
        self._value += data[start:end]

    def _end_header(self) -> None:
        self._headers[self._field.decode("latin-1").lower()] = self._value.decode("latin-1")
        self._field, self._value = bytearray(), bytearray()

    def _end_headers(self) -> None:
        message = Message()
        message["content-disposition"] = self._headers.get("content-disposition", "")
        name = message.get_param("filename", header="content-disposition")
        kind = self._headers.get("content-type", "").partition(";")[0].strip().lower()
        self.events.append(PartBegins(name if isinstance(name, str) else "", kind))

    def _add_data(self, data: bytes, start: int, end: int) -> None:
        self.events.append(PartData(data[start:end]))

    def _end(self) -> None:
        self.events.append(PartEnds())

    def _end_all(self) -> None:
        self.ended = True


async def read_form(content_type: str, chunks: AsyncIterator[bytes]) -> AsyncGenerator[Event, None]:
    """The parts of a form, as they come.

    Raises:
        Refusal: it is none, is cut short, or has too much in the heads of its parts.
    """
    parser = _Parser(boundary_of(content_type))
    async for chunk in chunks:
        for event in parser.feed(chunk):
            yield event
    if not parser.ended:
        raise Refusal(400, "BAD_REQUEST", "The form was cut short.")

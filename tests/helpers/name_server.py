"""A name server on loopback that has TXT records, and can be made to misbehave."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import trio

from kachery_p2p.transport.dns_txt import Server


class NameServer:
    """Answers over UDP, and over TCP on the same port.

    Args:
        texts: TXT records by name, with the dot at its end.
        rcode: of every answer; None for that of the truth.
        lost: so many questions over UDP are not answered.
        garbage: is sent before each answer over UDP.

    Attributes:
        asked: how each question came, "udp" or "tcp".
    """

    def __init__(
        self,
        texts: Mapping[str, Sequence[str]],
        *,
        rcode: int | None = None,
        lost: int = 0,
        garbage: Sequence[bytes] = (),
    ) -> None:
        self.texts = texts
        self.rcode = rcode
        self.lost = lost
        self.garbage = garbage
        self.asked: list[str] = []

    async def run(self, *, task_status: trio.TaskStatus[Server] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled; started with the address."""
        with trio.socket.socket(type=trio.socket.SOCK_DGRAM) as sock:
            # The port must be free for both; the system chooses, and of UDP's another program may have TCP's.
            while True:
                (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
                address: Server = listener.socket.getsockname()
                try:
                    await sock.bind(address)
                    break
                except OSError:
                    await listener.aclose()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.serve_listeners, self._tcp, [listener])
                task_status.started(address)
                while True:
                    data, sender = await sock.recvfrom(4096)
                    self.asked.append("udp")
                    if self.lost:
                        self.lost -= 1
                        continue
                    for each in self.garbage:
                        await sock.sendto(each, sender)
                    question = dns.message.from_wire(data)
                    answer = self._answer(question)
                    wire = answer.to_wire(max_size=65535)
                    if len(wire) > question.payload:
                        answer.answer.clear()
                        answer.flags |= dns.flags.TC
                        wire = answer.to_wire()
                    await sock.sendto(wire, sender)

    async def _tcp(self, stream: trio.SocketStream) -> None:
        data = b""
        while len(data) < 2 or len(data) < 2 + int.from_bytes(data[:2], "big"):
            data += await stream.receive_some()
        self.asked.append("tcp")
        wire = self._answer(dns.message.from_wire(data[2:])).to_wire(max_size=65535)
        whole = len(wire).to_bytes(2, "big") + wire
        for start in range(0, len(whole), 1000):  # in pieces
            await stream.send_all(whole[start : start + 1000])

    def _answer(self, question: dns.message.Message) -> dns.message.Message:
        answer = dns.message.make_response(question)
        name = question.question[0].name
        texts = self.texts.get(name.to_text())
        if texts:
            quoted = ['"' + '" "'.join(text[at : at + 200] for at in range(0, len(text), 200)) + '"' for text in texts]
            answer.answer.append(dns.rrset.from_text(name, 60, "IN", "TXT", *quoted))
        code = dns.rcode.NOERROR if texts is not None else dns.rcode.NXDOMAIN
        answer.set_rcode(code if self.rcode is None else dns.rcode.Rcode(self.rcode))
        return answer

"""A router's NAT-PMP or UPnP service, for the tests: `python -m tests.helpers.nat_gateway natpmp LAN_IP WAN_IP`.

Runs on the router of a lab (`scripts.lab`) and forwards ports for real, with nft. Each thing that happens is a line
of JSON: `{"event": "up"}`, `{"event": "mapped", "port": ..., "lifetime": ...}`, `{"event": "unmapped", "port": ...}`,
`{"event": "asked", "by": the port of who asks}`.
"""

from __future__ import annotations

import http.server
import json
import re
import socket
import struct
import subprocess
import sys
import threading

SERVICE = "urn:schemas-upnp-org:service:WANIPConnection:1"
GATEWAY = "urn:schemas-upnp-org:device:InternetGatewayDevice:1"

DESCRIPTION = f"""<?xml version="1.0"?>
<root xmlns="urn:schemas-upnp-org:device-1-0"><specVersion><major>1</major><minor>0</minor></specVersion><device>
<deviceType>{GATEWAY}</deviceType><friendlyName>test</friendlyName><UDN>uuid:1</UDN><deviceList><device>
<deviceType>urn:schemas-upnp-org:device:WANDevice:1</deviceType><UDN>uuid:2</UDN><deviceList><device>
<deviceType>urn:schemas-upnp-org:device:WANConnectionDevice:1</deviceType><UDN>uuid:3</UDN><serviceList><service>
<serviceType>{SERVICE}</serviceType><serviceId>urn:upnp-org:serviceId:WANIPConn1</serviceId>
<controlURL>/control</controlURL><eventSubURL>/events</eventSubURL><SCPDURL>/scpd.xml</SCPDURL>
</service></serviceList></device></deviceList></device></deviceList></device></root>"""


def say(event: str, **more: object) -> None:
    print(json.dumps({"event": event, **more}), flush=True)


class Forwarding:
    """Destination NAT on this machine."""

    def __init__(self, wan: str) -> None:
        self.wan = wan
        self.mapped: dict[int, tuple[str, int]] = {}
        self._nft("add table ip maps")
        self._nft("add chain ip maps incoming { type nat hook prerouting priority -100 ; }")
        self._nft("insert rule ip lab forwarding ct status dnat accept")

    def _nft(self, command: str) -> None:
        subprocess.run(["nft", "-f", "-"], input=command, text=True, check=True)

    def put(self, port: int, host: str, inside: int, lifetime: int) -> None:
        self.mapped[port] = (host, inside)
        self._apply()
        say("mapped", port=port, lifetime=lifetime)

    def remove(self, port: int) -> None:
        if self.mapped.pop(port, None):
            self._apply()
            say("unmapped", port=port)

    def _apply(self) -> None:
        rules = [
            f"add rule ip maps incoming ip daddr {self.wan} tcp dport {port} dnat to {host}:{inside}"
            for port, (host, inside) in self.mapped.items()
        ]
        self._nft("\n".join(["flush chain ip maps incoming", *rules]))


def natpmp(lan: str, wan: str, result: int) -> None:
    """RFC 6886. Gives the port after the one that is asked for, as a router with a busy port does."""
    forwarding = Forwarding(wan)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((lan, 5351))
        say("up")
        while True:
            data, client = sock.recvfrom(64)
            say("asked", by=client[1])
            if data == b"\0\0":
                reply = struct.pack("!BBHL", 0, 128, result, 1) + socket.inet_aton(wan)
            else:
                _, _, _, inside, wished, lifetime = struct.unpack("!BBHHHL", data)
                outside = 0
                if result == 0 and lifetime:
                    outside = next((p for p, target in forwarding.mapped.items() if target[1] == inside), wished + 1)
                    forwarding.put(outside, client[0], inside, lifetime)
                elif result == 0:
                    for port in [p for p, target in forwarding.mapped.items() if target[1] == inside]:
                        forwarding.remove(port)
                reply = struct.pack("!BBHLHHL", 0, 130, result, 1, inside, outside, lifetime)
            sock.sendto(reply, client)


def upnp(lan: str, wan: str, leases: bool) -> None:
    """An Internet Gateway Device. With `leases` off it takes permanent mappings only, as many do."""
    forwarding = Forwarding(wan)

    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None: ...

        def _reply(self, code: int, body: str) -> None:
            self.send_response(code)
            self.send_header("Content-Type", "text/xml")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body.encode())

        def do_GET(self) -> None:
            self._reply(200, DESCRIPTION)

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            action = self.headers["SOAPAction"].strip('"').rpartition("#")[2]
            args = dict(re.findall(r"<(New\w+)>([^<]*)<", body))
            out = ""
            if action == "GetExternalIPAddress":
                out = f"<NewExternalIPAddress>{wan}</NewExternalIPAddress>"
            elif action == "GetStatusInfo":
                out = (
                    "<NewConnectionStatus>Connected</NewConnectionStatus>"
                    "<NewLastConnectionError>ERROR_NONE</NewLastConnectionError><NewUptime>1</NewUptime>"
                )
            elif action == "AddPortMapping":
                if not leases and int(args["NewLeaseDuration"]):
                    return self._fault(725, "OnlyPermanentLeasesSupported")
                if int(args["NewExternalPort"]) == 4001:
                    return self._fault(718, "ConflictInMappingEntry")
                where = (args["NewInternalClient"], int(args["NewInternalPort"]))
                forwarding.put(int(args["NewExternalPort"]), *where, int(args["NewLeaseDuration"]))
            elif action == "DeletePortMapping":
                forwarding.remove(int(args["NewExternalPort"]))
            envelope = f'<u:{action}Response xmlns:u="{SERVICE}">{out}</u:{action}Response>'
            return self._reply(200, _soap(envelope))

        def _fault(self, code: int, text: str) -> None:
            error = f"<UPnPError><errorCode>{code}</errorCode><errorDescription>{text}</errorDescription></UPnPError>"
            body = f"<s:Fault><faultcode>s:Client</faultcode><detail>{error}</detail></s:Fault>"
            self._reply(500, _soap(body))

    server = http.server.ThreadingHTTPServer((lan, 5000), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("", 1900))
        group = socket.inet_aton("239.255.255.250") + socket.inet_aton(lan)
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, group)
        say("up")
        while True:
            data, client = sock.recvfrom(2048)
            if not data.startswith(b"M-SEARCH") or GATEWAY.encode() not in data:
                continue
            say("asked", by=client[1])
            reply = (
                "HTTP/1.1 200 OK\r\nCACHE-CONTROL: max-age=120\r\n"
                f"ST: {GATEWAY}\r\nUSN: uuid:1::{GATEWAY}\r\nEXT:\r\nSERVER: test UPnP/1.1\r\n"
                f"LOCATION: http://{lan}:5000/desc.xml\r\n\r\n"
            )
            sock.sendto(reply.encode(), client)


def _soap(body: str) -> str:
    return (
        '<?xml version="1.0"?><s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/" '
        's:encodingStyle="http://schemas.xmlsoap.org/soap/encoding/">'
        f"<s:Body>{body}</s:Body></s:Envelope>"
    )


if __name__ == "__main__":
    kind, lan, wan = sys.argv[1:4]
    if kind == "natpmp":
        natpmp(lan, wan, 0)
    elif kind == "natpmp-refuses":
        natpmp(lan, wan, 2)
    else:
        upnp(lan, wan, leases=kind == "upnp")

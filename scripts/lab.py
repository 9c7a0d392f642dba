"""Several machines in several networks, on this one: Linux network namespaces, switches, NATs and firewalls.

    with Lab() as lab:
        internet = lab.network("11.0.0.0/24")
        home = lab.network("192.168.7.0/24")
        lab.router("nat-a", inside=home, outside=internet, nat="port-preserving")
        alice = lab.host("alice", home)
        relay = lab.host("relay", internet)
        with alice.entered():              # whatever this thread starts or opens now is on that machine
            process = subprocess.Popen([...])
        station = alice.workstation(folder)
        lab.line(alice, carol, Line(delay=0.025, rate=100e6, loss=0.01))     # a long line between two of them

Each network is a bridge in a namespace of its own, so nothing touches the interfaces of this machine and no packet
leaves it. Needs Linux, root, and the programs `ip` and `nft`; `unavailable()` says what is missing.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import ipaddress
import itertools
import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from scripts.line import Counts, Line
from scripts.workstation import Workstation

if TYPE_CHECKING:
    from typing_extensions import Self

_PREFIX = "kclab"
_NETNS = Path("/run/netns")
_CLONE_NEWNET = 0x40000000
_TUN = Path("/dev/net/tun")
#: `linux/if_tun.h`: a TUN interface, without the protocol before each packet, but with the header of `Direction.push`;
#: checksums are left to the other end, and TCP segments may come many at once.
_TUNSETIFF, _TUNSETOFFLOAD = 0x400454CA, 0x400454D0
_IFF_TUN, _IFF_NO_PI, _IFF_VNET_HDR = 0x0001, 0x1000, 0x4000
_TUN_F_CSUM, _TUN_F_TSO4 = 0x01, 0x02
#: Packets that an interface of a line holds until they are read: all that a window of 64 MB can be.
_TUN_QUEUE = 50_000
_TRIES = 5
_CARRIER_SECONDS = 10.0
_labs = itertools.count(1)


class LabError(Exception):
    """A namespace, link or rule could not be made."""


def unavailable() -> str | None:
    """Why there can be no lab on this machine, as a sentence; None where there can."""
    if sys.platform != "linux":
        return "network namespaces exist on Linux only"
    if os.geteuid() != 0:
        return "making network namespaces takes root"
    for program in ("ip", "nft"):
        if shutil.which(program) is None:
            return f"the program {program} is missing (Debian: apt-get install iproute2 nftables)"
    name = f"{_PREFIX}-{os.getpid()}-try"
    try:
        _ip("netns", "add", name)
        _ip("netns", "del", name)
    except LabError as error:
        return f"this machine does not allow network namespaces: {error}"
    return None


def congestion_controls() -> list[str]:
    """What this kernel's TCP can control congestion by, such as `cubic`."""
    return Path("/proc/sys/net/ipv4/tcp_available_congestion_control").read_text().split()


class Network:
    """A switch with an address range. Made by `Lab.network`."""

    def __init__(self, lab: Lab, cidr: str, cidr6: str | None) -> None:
        self._lab = lab
        self.cidr = ipaddress.ip_network(cidr)
        self.cidr6 = ipaddress.ip_network(cidr6) if cidr6 else None
        self.namespace = lab._namespace("switch")
        self.hosts: list[Host] = []
        self.gateway: str | None = None
        self._ports = itertools.count(1)
        _ip("-n", self.namespace, "link", "add", "br0", "type", "bridge", "mcast_snooping", "0")
        _ip("-n", self.namespace, "link", "set", "br0", "up")

    def attach(self, host: Host) -> tuple[str, str]:
        """Plug a host in. Returns its interface and its IPv4 address."""
        port = next(self._ports)
        interface = f"eth{len(host.addresses)}"
        names = ("peer", "name", f"p{port}", "netns", self.namespace)
        _ip("link", "add", interface, "netns", host.namespace, "type", "veth", *names)
        _ip("-n", self.namespace, "link", "set", f"p{port}", "master", "br0", "up")
        address = str(self.cidr[port])
        _ip("-n", host.namespace, "addr", "add", f"{address}/{self.cidr.prefixlen}", "dev", interface)
        if self.cidr6:
            address6 = f"{self.cidr6[port]}/{self.cidr6.prefixlen}"
            _ip("-n", host.namespace, "addr", "add", address6, "dev", interface, "nodad")
        _ip("-n", host.namespace, "link", "set", interface, "up")
        _wait_for_carrier(host.namespace, interface)
        if not host.addresses:
            # Where there is a router the default route takes these along; some programs send multicast nowhere else.
            _ip("-n", host.namespace, "route", "add", "224.0.0.0/4", "dev", interface)
        self.hosts.append(host)
        return interface, address


class Host:
    """A machine of the lab.

    Attributes:
        name: for display.
        namespace: its network namespace.
        addresses: its IPv4 addresses, one for each network, in the order in which it was attached.
    """

    def __init__(self, lab: Lab, name: str) -> None:
        self.lab = lab
        self.name = name
        self.namespace = lab._namespace(name)
        self.addresses: list[str] = []
        self.interfaces: list[str] = []
        _ip("-n", self.namespace, "link", "set", "lo", "up")

    @property
    def address(self) -> str:
        """Its first IPv4 address."""
        return self.addresses[0]

    def attach(self, network: Network) -> None:
        """Plug it into one more network."""
        interface, address = network.attach(self)
        self.interfaces.append(interface)
        self.addresses.append(address)
        if network.gateway is not None and len(self.addresses) == 1:
            self.route_by(network.gateway)

    def route_by(self, gateway: str) -> None:
        """Send what is for other networks there."""
        _ip("-n", self.namespace, "route", "replace", "default", "via", gateway)

    def link(self, up: bool, index: int = 0) -> None:
        """Plug the cable in or out."""
        _ip("-n", self.namespace, "link", "set", self.interfaces[index], "up" if up else "down")
        if up:
            _wait_for_carrier(self.namespace, self.interfaces[index])

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """While this lasts, processes that this thread starts, and sockets it makes, are on that machine."""
        with open("/proc/thread-self/ns/net", "rb") as home, open(_NETNS / self.namespace, "rb") as there:
            _setns(there.fileno())
            try:
                yield
            finally:
                _setns(home.fileno())

    def workstation(self, folder: Path, *, env: dict[str, str] | None = None) -> Workstation:
        """A workstation on that machine that listens on all its interfaces; public services stay off.

        It ends with the lab. `env` adds to its environment.
        """
        settings = {
            "KACHERY_CLOUD_LISTEN": "/ip4/0.0.0.0/tcp/4001",
            "KACHERY_CLOUD_MDNS": "on",
            **(env or {}),
        }
        return self.lab._stack.enter_context(Workstation(folder, env=settings, around=self.entered))

    def run(self, *command: str | Path, check: bool = True) -> str:
        """Run a short command there and return what it prints.

        Raises:
            LabError: it fails, and `check` is set.
        """
        with self.entered():
            return _run([str(each) for each in command], check=check)


class LongLine:
    """A line between two machines, and the process that carries its packets. Made by `Lab.line`."""

    def __init__(
        self, hosts: tuple[Host, Host], line: Line, number: int, control: str | None, log: Path | None
    ) -> None:
        self.line = line
        ends = ipaddress.ip_network((0x0A63_0000 + 4 * number, 30))
        addresses = [str(ends[1]), str(ends[2])]
        descriptors: list[int] = []
        try:
            for host, own, peer in zip(hosts, addresses, reversed(addresses), strict=True):
                interface = f"line{len(host.addresses)}"
                descriptors.append(_open_tun(host, interface))
                _ip("-n", host.namespace, "addr", "add", own, "peer", peer, "dev", interface)
                _ip("-n", host.namespace, "link", "set", interface, "up", "txqueuelen", str(_TUN_QUEUE))
                if control is not None:
                    # Which one a namespace prefers may not be set there; what a route prefers may.
                    route = (peer, "dev", interface, "src", own, "congctl", control)
                    _ip("-n", host.namespace, "route", "replace", *route)
                host.interfaces.append(interface)
                host.addresses.append(own)
                with host.entered():
                    _set_up_tcp(line)
            command = [sys.executable, "-m", "scripts.line", *map(str, descriptors), "--line", json.dumps(asdict(line))]
            self._process = subprocess.Popen(
                [*command, *(["--log", str(log)] if log else [])],
                cwd=Path(__file__).resolve().parent.parent,
                pass_fds=descriptors,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
        self.counts()  # it answers when it carries

    @property
    def pid(self) -> int:
        """The process that carries the packets."""
        return self._process.pid

    def counts(self) -> tuple[Counts, Counts]:
        """What came from the first machine so far, and what from the second.

        Raises:
            LabError: the process has ended.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write("\n")
            self._process.stdin.flush()
        except OSError:
            pass  # the answer will be missing
        answer = self._process.stdout.readline()
        if not answer:
            raise LabError("the process of the long line has ended")
        first, second = json.loads(answer)
        return Counts(**first), Counts(**second)

    def close(self) -> None:
        """Cut it."""
        self._process.kill()
        self._process.communicate()


def _set_up_tcp(line: Line) -> None:
    """On the machine that this thread is on: nothing is remembered of ended connections, and buffers are long enough.

    Half of a buffer is for what the kernel needs besides the bytes, and congestion control needs room beyond what the
    line and its queue hold.
    """
    folder = Path("/proc/sys/net/ipv4")
    (folder / "tcp_no_metrics_save").write_text("1")
    for name in ("tcp_rmem", "tcp_wmem"):
        least, first, most = (folder / name).read_text().split()
        needed = int(6 * line.rate / 8 * 2 * line.delay)
        (folder / name).write_text(f"{least} {first} {max(int(most), needed)}")


def _open_tun(host: Host, name: str) -> int:
    """A TUN interface on that machine; its packets are read from and written to the descriptor."""
    with host.entered():
        try:
            descriptor = os.open(_TUN, os.O_RDWR | os.O_NONBLOCK)
        except OSError as error:
            raise LabError(f"{_TUN} cannot be opened, which long lines need: {error.strerror}") from error
        try:
            flags = _IFF_TUN | _IFF_NO_PI | _IFF_VNET_HDR
            fcntl.ioctl(descriptor, _TUNSETIFF, struct.pack("16sH22x", name.encode(), flags))
            fcntl.ioctl(descriptor, _TUNSETOFFLOAD, _TUN_F_CSUM | _TUN_F_TSO4)
        except OSError as error:
            os.close(descriptor)
            raise LabError(f"no TUN interface could be made: {error.strerror}") from error
        return descriptor


class Lab:
    """All of it; a context manager. At the end every process in its namespaces is killed and all is taken down."""

    def __init__(self) -> None:
        self._number = next(_labs)
        self._count = itertools.count(1)
        self._lines = itertools.count(0)
        self._namespaces: list[str] = []
        self._stack = contextlib.ExitStack()
        self._sweep()

    def _sweep(self) -> None:
        """Take down what labs of dead processes left behind."""
        for path in _NETNS.glob(f"{_PREFIX}-*"):
            pid = path.name.split("-")[1]
            if pid.isdigit() and not Path(f"/proc/{pid}").exists():
                _remove(path.name)

    def _namespace(self, label: str) -> str:
        name = f"{_PREFIX}-{os.getpid()}-{self._number}-{next(self._count)}-{label}"
        _ip("netns", "add", name)
        self._namespaces.append(name)
        return name

    def network(self, cidr: str, cidr6: str | None = None) -> Network:
        """A new switch; hosts get the addresses of `cidr` in order, beginning with .1, and of `cidr6` if given."""
        return Network(self, cidr, cidr6)

    def host(self, name: str, *networks: Network) -> Host:
        """A new machine in these networks."""
        host = Host(self, name)
        for network in networks:
            host.attach(network)
        return host

    def router(
        self,
        name: str,
        *,
        inside: Network,
        outside: Network,
        nat: str | None = "port-preserving",
        outbound: str = "all",
    ) -> Host:
        """A machine that forwards from one network to another. What comes from outside unasked is dropped.

        Args:
            name: for display.
            inside: its hosts get this router as their way out.
            outside: the network that it leads to.
            nat: `port-preserving` keeps the source port of a connection wherever it goes (what most routers at home
                do), `symmetric` takes another random one for each connection, None does not translate.
            outbound: `all`, or `tcp`: nothing but TCP gets out.
        """
        router = self.host(name, inside, outside)
        lan, wan = router.interfaces
        translate = {
            None: "",
            "port-preserving": f'oifname "{wan}" masquerade',
            "symmetric": f'oifname "{wan}" masquerade fully-random',
        }[nat]
        allowed = {"all": f'iifname "{lan}" accept', "tcp": f'iifname "{lan}" meta l4proto tcp accept'}[outbound]
        rules = f"""
            table ip lab {{
                chain translate {{
                    type nat hook postrouting priority 100
                    {translate}
                }}
                chain forwarding {{
                    type filter hook forward priority 0; policy drop
                    ct state established,related accept
                    {allowed}
                }}
                chain incoming {{
                    type filter hook input priority 0; policy accept
                    iifname "{wan}" ct state established,related accept
                    iifname "{wan}" drop
                }}
            }}
        """
        with router.entered():
            Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
            _run(["nft", "-f", "-"], text=rules)
        inside.gateway = router.addresses[0]
        for host in inside.hosts:
            if host is not router:
                host.route_by(inside.gateway)
        return router

    def line(
        self, one: Host, other: Host, line: Line, *, control: str | None = None, log: Path | None = None
    ) -> LongLine:
        """Put a long line between two machines, each with an address of its own for it, the last of its `addresses`.

        TCP forgets there what it learned of the line: each connection begins as the first one did. Its buffers may grow
        to what the line takes, as on machines that are set up for such lines.

        Args:
            one: a machine.
            other: another one.
            line: how it behaves.
            control: what controls congestion, one of `congestion_controls`; what the kernel prefers where None.
            log: a file that gets a line of text for each packet: time, side, ports, flags, sequence number, bytes.

        Raises:
            LabError: this machine has no TUN interfaces, or no such control.
        """
        made = LongLine((one, other), line, next(self._lines), control, log)
        self._stack.callback(made.close)
        return made

    def end_with(self, process: subprocess.Popen[str]) -> None:
        """End this process before the networks are taken down."""

        def end() -> None:
            process.kill()
            process.communicate()

        self._stack.callback(end)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._stack.close()
        finally:
            for name in self._namespaces:
                _remove(name)


def _remove(namespace: str) -> None:
    for pid in _run(["ip", "netns", "pids", namespace], check=False).split():
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)
    _run(["ip", "netns", "del", namespace], check=False)


def _setns(descriptor: int) -> None:
    # os.setns exists from Python 3.12 on.
    if ctypes.CDLL(None, use_errno=True).setns(descriptor, _CLONE_NEWNET) != 0:
        raise LabError(f"setns failed: {os.strerror(ctypes.get_errno())}")


def _ip(*args: str) -> None:
    for left in reversed(range(_TRIES)):
        try:
            _run(["ip", *args])
            return
        except LabError as error:
            # Links that several labs make at the same moment are refused at times; the next try goes through.
            if not left or "Address already in use" not in str(error):
                raise


def _wait_for_carrier(namespace: str, interface: str) -> None:
    """A link that was just plugged in is no cable yet to the programs of the machine: the system takes a moment."""
    end = time.monotonic() + _CARRIER_SECONDS
    while " state UP " not in _run(["ip", "-n", namespace, "link", "show", interface]):
        if time.monotonic() > end:
            raise LabError(f"{interface} of {namespace} did not come up within {_CARRIER_SECONDS:g} s")
        time.sleep(0.01)  # nothing tells when


def _run(command: list[str], *, text: str | None = None, check: bool = True) -> str:
    done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=30, check=False)
    if check and done.returncode != 0:
        raise LabError(f"{' '.join(command)} failed: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout

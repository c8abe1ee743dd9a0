"""Which network interface ranks talk over: gloo and NCCL otherwise take what a host's own name resolves to, which
often is its loopback interface, and is no way to another host."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Mapping, MutableMapping, Sequence

import psutil

_FAMILIES = (socket.AF_INET, socket.AF_INET6)


class NoInterface(RuntimeError):
    """No network interface of this node is the one that ranks shall use."""


def bind(environment: MutableMapping[str, str], node_address: str) -> None:
    """Tell gloo and NCCL their interface, before torch.distributed starts. What a user has set for them stays.

    `node_address` is the one that the node is known to Ray by. RATCHET_INTERFACE (`cluster.interface`) goes before it.

    Raises:
        NoInterface: there is none of this name, network or address.
    """
    if "GLOO_SOCKET_IFNAME" in environment and "NCCL_SOCKET_IFNAME" in environment:
        return
    name = interface(environment.get("RATCHET_INTERFACE") or node_address, addresses())
    environment.setdefault("GLOO_SOCKET_IFNAME", name)
    environment.setdefault("NCCL_SOCKET_IFNAME", f"={name}")  # without the sign, each one whose name begins so


def addresses() -> dict[str, list[str]]:
    """This node's addresses, by interface."""
    found = psutil.net_if_addrs()
    return {name: [a.address.partition("%")[0] for a in told if a.family in _FAMILIES] for name, told in found.items()}


def interface(wanted: str, there: Mapping[str, Sequence[str]]) -> str:
    """The name of the interface that is meant by its name, one of its addresses, or a network that it is in.

    Raises:
        NoInterface: there is none.
    """
    if wanted in there:
        return wanted
    try:
        network = ipaddress.ip_network(wanted, strict=False)
    except ValueError:
        network = None
    for name, held in there.items():
        if network and any(ipaddress.ip_address(address) in network for address in held):
            return name
    known = ", ".join(f"{name} ({', '.join(held) or 'without an address'})" for name, held in sorted(there.items()))
    raise NoInterface(
        f"{socket.gethostname()} has no network interface {wanted!r}, but {known}; `cluster.interface` names one, by "
        "its name or its network"
    )

"""Which interface ranks talk over."""

from __future__ import annotations

import pytest

from workers.training.network import NoInterface, addresses, bind, interface

NODE = {"lo": ["127.0.0.1", "::1"], "eth0": ["10.77.0.2", "fe80::1"], "ib0": ["10.1.4.2"], "wg0": []}


@pytest.mark.parametrize(
    ("wanted", "name"),
    [
        ("10.77.0.2", "eth0"),
        ("127.0.0.1", "lo"),
        ("::1", "lo"),
        ("ib0", "ib0"),
        ("wg0", "wg0"),
        ("10.1.0.0/16", "ib0"),
        ("10.1.4.2/16", "ib0"),
    ],
)
def test_an_interface_is_known_by_its_name_an_address_or_its_network(wanted: str, name: str) -> None:
    assert interface(wanted, NODE) == name


@pytest.mark.parametrize("wanted", ["10.77.0.9", "10.2.0.0/16", "eth1", "nonsense/9"])
def test_one_that_is_not_there_is_refused_with_those_that_are(wanted: str) -> None:
    with pytest.raises(NoInterface, match=r"eth0 \(10.77.0.2, fe80::1\).*wg0 \(without an address\)"):
        interface(wanted, NODE)


def test_the_node_s_own_address_decides_then_the_job_then_the_user() -> None:
    own = next(name for name, held in addresses().items() if "127.0.0.1" in held)
    environment: dict[str, str] = {}
    bind(environment, "127.0.0.1")
    assert environment == {"GLOO_SOCKET_IFNAME": own, "NCCL_SOCKET_IFNAME": f"={own}"}
    asked = {"RATCHET_INTERFACE": own}
    bind(asked, "192.0.2.1")
    assert asked["GLOO_SOCKET_IFNAME"] == own
    with pytest.raises(NoInterface):
        bind({}, "192.0.2.1")
    users = {"GLOO_SOCKET_IFNAME": "mine", "RATCHET_INTERFACE": own}
    bind(users, "127.0.0.1")
    assert users["GLOO_SOCKET_IFNAME"] == "mine" and users["NCCL_SOCKET_IFNAME"] == f"={own}"
    private = {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"}
    bind(private, "192.0.2.1")
    assert private == {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"}

"""Who may reach Redis, and how: passwords, users with few rights, certificates, and URLs that are none."""

from __future__ import annotations

import time
import traceback
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from redis.exceptions import NoPermissionError

from benchmarks.redis_cluster import SLOTS, RedisCluster
from benchmarks.redis_server import RedisServer
from contracts.errors import StoreError, StoreUnavailable
from sequence_store import RedisRingStore
from sequence_store.wire import Wire, connect
from tests.sequence_store.samples import LAYOUT, append_one, read_one
from tests.tls_proxy import Authority, TlsProxy

RIGHTS = (
    # Read and append.
    *("+evalsha", "+get", "+getrange", "+set", "+setrange", "+pexpire", "+xadd", "+script|load"),
    # Layouts and dictionaries.
    *("+hget", "+hgetall", "+hset"),
    # The outbox, and emptying all rings.
    *("+xrange", "+xtrim", "+incr"),
    # In a cluster.
    *("+cluster|slots", "+asking"),
)
"""What a store needs, on the keys ``{tenant:*`` and ``{tenant}:*``."""


def open_wire(url: str, timeout_s: float = 30.0) -> Wire:
    return Wire(connect(url, timeout_s, timeout_s))


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path)
    server.start()
    yield server
    server.stop()


def said(error: BaseException) -> str:
    """Return all that a traceback of ``error`` would tell."""
    return "".join(traceback.format_exception(error, chain=True))


@pytest.mark.integration
def test_a_wrong_password_is_named_as_the_cause_and_never_shown(server: RedisServer) -> None:
    with redis.Redis(port=server.port) as admin:
        admin.config_set("requirepass", "the-right-one")
    good = open_wire(f"redis://:the-right-one@127.0.0.1:{server.port}/0")
    assert good.exchange([("SET", "key", 1)], writes=True) == [b"OK"]
    for credentials in (":wr%26ng-one@", "nobody:wr%26ng-one@", ""):
        wire = open_wire(f"redis://{credentials}127.0.0.1:{server.port}/0")
        with pytest.raises(StoreUnavailable, match=f"127.0.0.1:{server.port}.*check the user and the password") as info:
            wire.exchange([("SET", "key", 1)], writes=True)
        assert "ng-one" not in said(info.value)


@pytest.mark.integration
def test_what_a_user_may_not_do_is_refused_with_the_way_out(server: RedisServer) -> None:
    with redis.Redis(port=server.port) as admin:
        admin.execute_command("ACL", "SETUSER", "reader", "on", ">secret", "~own:*", "-@all", "+get")
    wire = open_wire(f"redis://reader:secret@127.0.0.1:{server.port}/0")
    served, command, key = wire.exchange([("GET", "own:1"), ("SET", "own:1", 1), ("GET", "foreign:1")], writes=True)
    assert served is None
    for refusal, what in ((command, "'set' command"), (key, "key")):
        assert isinstance(refusal, NoPermissionError)
        assert what in str(refusal)
        assert f"grant it to the user on Redis at 127.0.0.1:{server.port}" in str(refusal)
    with pytest.raises(StoreUnavailable, match=r"'scan' command.*; grant it"):
        list(wire.scan(b"*", 10))


@pytest.mark.integration
@pytest.mark.parametrize("kind", ["server", "cluster"])
def test_a_store_needs_few_rights_on_its_tenant_s_keys_alone(kind: str, request: pytest.FixtureRequest) -> None:
    cluster: RedisCluster | None = request.getfixturevalue("redis_cluster") if kind == "cluster" else None
    servers = cluster.servers if cluster else [request.getfixturevalue("redis_server")]
    rule = ("on", ">secret", "resetchannels", "~{limited:*", "~{limited}:*", "-@all", *RIGHTS)
    for server in servers:
        with redis.Redis(port=server.port) as admin:
            admin.execute_command("ACL", "SETUSER", "limited", "reset", *rule)
    url = f"redis://limited:secret@127.0.0.1:{servers[0].port}/0"
    with RedisRingStore(url, "limited", LAYOUT, 4, 14, timeout_s=30) as store:
        members = [f"m{number}" for number in range(40)]
        for member in members:
            entries = [append_one(store, member, log_row=b"row") for _ in range(6)]
            assert read_one(store, member).entries == tuple(entries[-4:])
        rows = store.drain(1000)
        assert len(rows) == 6 * len(members)
        assert store.trim([cursor for cursor, _ in rows]) == len(rows)
        store.empty()
        assert read_one(store, members[0]).entries == ()
    foreign = RedisRingStore(url, "foreign", LAYOUT, 4, 14, timeout_s=30)
    with foreign, pytest.raises(StoreUnavailable, match=r"grant it to the user on Redis at 127\.0\.0\.1:"):
        read_one(foreign)


@pytest.mark.unit
@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://:pa55word@host:6379/0", "write redis://"),
        ("redis://:pa55word@host:port/0", "write redis://"),
        ("redis://user:pa55#word@host:6379/0", "percent-encode"),
        ("redis://user:pa55/word@host:6379/0", "percent-encode"),
        ("redis://user:55?pa55=word@host:6379/0", "percent-encode"),
        ("redis://user:pa55[word@host:6379/0", "percent-encode"),
        ("redis://:pa55word@host:6379/0?ssl_ca_certs=ca.pem", "ssl_ca_certs.* write .*rediss://"),
        ("redis://:pa55word@host:6379/0?socket_timeout=soon", "'socket_timeout'"),
        ("rediss://:pa55word@host:6379/0?ssl_cert_reqs=sometimes", "sometimes"),
    ],
)
def test_a_url_that_is_none_is_refused_at_once_and_its_password_not_shown(url: str, reason: str) -> None:
    with pytest.raises(StoreError, match=reason) as info:
        connect(url, 1, 1)
    assert "pa55" not in said(info.value)


@pytest.mark.integration
def test_a_cluster_has_one_database(redis_cluster: RedisCluster) -> None:
    wire = open_wire(redis_cluster.url.replace("/0", "/3"))
    with pytest.raises(StoreUnavailable, match="check the database in its URL"):
        wire.exchange([("GET", "key")], writes=False)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def proxies() -> Iterator[list[TlsProxy]]:
    """Proxies put here are closed."""
    proxies: list[TlsProxy] = []
    yield proxies
    for proxy in proxies:
        proxy.close()


@pytest.mark.integration
def test_tls_checks_the_server_s_certificate(
    redis_server: RedisServer,
    authority: Authority,
    tmp_path: Path,
    proxies: list[TlsProxy],
    pytestconfig: pytest.Config,
) -> None:
    proxies += [TlsProxy(redis_server.port, authority.issue(host)) for host in ("127.0.0.1", "elsewhere.example")]
    here, elsewhere = (f"rediss://127.0.0.1:{proxy.port}/1" for proxy in proxies)
    trusted, stranger = f"ssl_ca_certs={authority.certificate}", Authority(tmp_path).certificate
    value = b"\x00" * 100_000
    for url in filter(None, (f"{here}?{trusted}", pytestconfig.getoption("--redis-tls-url"))):
        wire = open_wire(url)
        commands = [("SET", "tls", value), ("GET", "tls"), ("PEXPIRE", "tls", 60_000)]
        assert wire.exchange(commands, writes=True) == [b"OK", value, 1]
        wire.close()
    unchecked = open_wire(f"{elsewhere}?{trusted}&ssl_check_hostname=no")
    assert unchecked.exchange([("GET", "tls")], writes=False) == [value]
    for url, reason in (
        (f"{elsewhere}?{trusted}", "IP address mismatch"),
        (f"{here}?ssl_ca_certs={stranger}", "CERTIFICATE_VERIFY_FAILED"),
        (here, "CERTIFICATE_VERIFY_FAILED"),
    ):
        with pytest.raises(StoreUnavailable, match=rf"127.0.0.1:\d+ cannot be reached.*{reason}.*ssl_ options"):
            open_wire(url).exchange([("GET", "tls")], writes=True)


@pytest.mark.integration
def test_tls_shows_the_client_s_certificate(
    redis_server: RedisServer, authority: Authority, proxies: list[TlsProxy]
) -> None:
    proxies.append(TlsProxy(redis_server.port, authority.issue("127.0.0.1"), clients=authority))
    certificate, key = authority.issue("client.example")
    url = f"rediss://127.0.0.1:{proxies[0].port}/1?ssl_ca_certs={authority.certificate}"
    wire = open_wire(f"{url}&ssl_certfile={certificate}&ssl_keyfile={key}")
    assert wire.exchange([("PING",)], writes=False) == [b"PONG"]
    with pytest.raises(StoreUnavailable, match="cannot be reached"):
        open_wire(url).exchange([("PING",)], writes=True)
    with pytest.raises(StoreUnavailable, match="Check the files that the ssl_ options"):
        open_wire(f"{url}&ssl_certfile={certificate}.gone&ssl_keyfile={key}").exchange([("PING",)], writes=True)


@pytest.mark.integration
def test_tls_to_a_port_without_it_and_the_other_way_round(
    redis_server: RedisServer, authority: Authority, proxies: list[TlsProxy]
) -> None:
    proxies.append(TlsProxy(redis_server.port, authority.issue("127.0.0.1")))
    # A server takes the greeting for the beginning of a command, and waits for its end.
    with pytest.raises(StoreUnavailable, match="check that the port speaks TLS"):
        open_wire(f"rediss://127.0.0.1:{redis_server.port}/0", timeout_s=0.5).exchange([("PING",)], writes=True)
    with pytest.raises(StoreUnavailable, match=f"127.0.0.1:{proxies[0].port} cannot.*write rediss://"):
        open_wire(f"redis://127.0.0.1:{proxies[0].port}/0").exchange([("PING",)], writes=True)


@pytest.mark.integration
def test_tls_goes_to_every_server_of_a_cluster(tmp_path: Path, authority: Authority, proxies: list[TlsProxy]) -> None:
    # The cluster names the proxy's port, which takes nothing but TLS.
    server = RedisServer(tmp_path, "--cluster-enabled", "yes", "--databases", "1")
    server.start()
    try:
        proxies.append(TlsProxy(server.port, authority.issue("127.0.0.1")))
        with redis.Redis(port=server.port) as admin:
            admin.config_set("cluster-announce-port", proxies[0].port)
            admin.config_set("cluster-announce-ip", "127.0.0.1")
            admin.execute_command("CLUSTER", "ADDSLOTS", *range(SLOTS))
            while admin.execute_command("CLUSTER INFO")["cluster_state"] != "ok":
                time.sleep(0.01)
        wire = open_wire(f"rediss://127.0.0.1:{proxies[0].port}/0?ssl_ca_certs={authority.certificate}")
        assert wire.exchange([("SET", "key", 1)], writes=True) == [b"OK"]
        assert set(wire.broadcast(("PING",), writes=False)) == {f"127.0.0.1:{proxies[0].port}"}
        wire.close()
    finally:
        server.stop()

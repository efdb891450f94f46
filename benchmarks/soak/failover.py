"""A master of a Redis Cluster dies under load and its replica is promoted: what is lost, and what waiting saves."""

from __future__ import annotations

import random
from typing import Final, NamedTuple

from benchmarks.redis_cluster import RedisCluster
from benchmarks.soak.crew import Crew
from benchmarks.soak.entries import NOW_MS
from benchmarks.soak.persistent import Manner, judge, open_store, write
from benchmarks.soak.scenario import Report, Soak
from benchmarks.soak.servers import redis_cluster
from benchmarks.soak.writers import take_rows
from sequence_store import Ring
from sequence_store.keys import Keys

WRITERS: Final = 8
MEMBERS: Final = 24
BEFORE_KILL: Final = (100, 400)
"""Settled cycles, of all writers together."""


class Part(NamedTuple):
    """What happens to the replica before its master is killed, and what its writers wait for."""

    name: str
    manner: Manner
    cut_off: bool


PARTS: Final = (
    Part("in step", Manner("a"), False),
    Part("in step, WAIT", Manner("b", replicas=1, wait_ms=1_000), False),
    Part("cut off", Manner("c"), True),
    Part("cut off, WAIT", Manner("d", replicas=1, wait_ms=10), True),
)


def run(soak: Soak) -> Report:
    """A cluster's master is killed under load and its replica promoted, without and with WAIT."""
    report = Report()
    with redis_cluster() as cluster:
        for part in PARTS:
            run_part(soak, report, cluster, part)
    report.remarks.append(
        "In step: the replica follows until its master dies, and the cluster votes for it. Cut off: the replica is "
        "away first, comes back with what it had, and is promoted. A master acknowledges before its replica has the "
        "append, so without WAIT everything since the replica was last in step may be lost; what is left is whole and "
        "in order. With WAIT an append counts as made once the replica has it; one that it does not have in time is "
        "of unknown outcome, and reading it back shows only that the master has it. WAIT makes no cluster strongly "
        "consistent: what too few replicas have is not taken back, and of several replicas one without it may be "
        "promoted. In a partition, a master on the side of the minority takes writes for the cluster's node timeout, "
        "and all of them are lost when it rejoins; with WAIT it acknowledges none, its replica being on the other side."
    )
    return report


def run_part(soak: Soak, report: Report, cluster: RedisCluster, part: Part) -> None:
    """Kill masters of ``cluster`` under load and promote their replicas; leave it whole."""
    name, manner, cut_off = part
    failovers = soak.amount(6, 1)
    task = soak.progress.add_task(f"failover, {name}", total=failovers)
    rng = random.Random(f"{soak.seed}/{name}")
    members = [f"m{number}" for number in range(MEMBERS)]
    keys = {member_id: Keys(manner.tenant).ring(member_id) for member_id in members}
    affected: set[str] = set()
    with Crew(write, WRITERS, cluster.url, members, manner) as crew:
        for _ in range(failovers):
            victim = cluster.owner(keys[rng.choice(members)])
            affected.update(member_id for member_id in members if cluster.owner(keys[member_id]) is victim)
            replica = cluster.replica(victim)
            if cut_off:
                cluster.kill(replica)
            crew.until(crew.signals.done + rng.randint(*BEFORE_KILL))
            crew.signals.up.clear()
            cluster.kill(victim)
            if cut_off:
                cluster.revive(replica)
                cluster.promote(replica)
            else:
                cluster.until_master(replica)
            crew.signals.up.set()
            cluster.heal()
            soak.progress.advance(task)
        crew.until(crew.signals.done + rng.randint(*BEFORE_KILL))
        crew.signals.stop.set()
        diaries = crew.results()
    with open_store(cluster.url, manner) as store:
        rows = take_rows(store)
        rings = [ring for ring in store.read(members, [NOW_MS] * MEMBERS) if isinstance(ring, Ring)]
    report.law("every ring can be read", [()] * (MEMBERS - len(rings)))
    waits = manner.replicas > 0
    counts = judge(report, diaries, rows, rings, manner, keeps_acknowledged=waits, keeps_read_back=False)
    report.part(name).update(failovers=failovers, members=MEMBERS, members_of_masters_killed=len(affected), **counts)

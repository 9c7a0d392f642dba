"""The DHT's core in a network that is simulated: small and quick (scripts.dht_simulation is the large one)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from scripts import dht_simulation
from scripts.simulation.measure import Results, Settings, measure
from scripts.simulation.world import HOUR, K, Manners, World

SETTINGS = replace(
    Settings(), nodes=500, seed=3, lookups=40, cids=(1, 4000), sample=40, warm_up=HOUR / 2, interval=2 * HOUR
)


@pytest.fixture(scope="module")
def results() -> Results:
    """500 nodes, a fifth of them lying; the sweep takes two hours, not 22."""
    return measure(SETTINGS, say=lambda text: None)


def test_lookups_survive_liars(results: Results) -> None:
    """With a fifth of the network lying, at least 95 of 100 records are found, and hardly later than without."""
    announced, found, nothing = results.lying
    assert announced.right >= 0.95
    assert found.found >= 0.95 * found.tried
    assert found.requests < 2 * results.honest[1].requests
    assert nothing.found == nothing.tried


def test_lookups_end_soon(results: Results) -> None:
    """An honest network is asked some 40 questions for the 20 closest, a lying one at most three times as many."""
    assert results.honest[0].right >= 0.98
    assert results.honest[0].requests < 60
    assert results.lying[0].requests < 3 * results.honest[0].requests


def test_one_costs_a_lookup_and_many_cost_the_network(results: Results) -> None:
    """Announcing one CID costs one lookup; 4000 together cost less than 1/20 of a lookup each."""
    one, many = (each.costs for each in results.announcing)
    assert one.lookups == 1
    assert one.deliveries <= K
    assert many.messages_per_key < results.one_lookup / 20
    # Each node is told once or twice, whatever the number of CIDs.
    assert many.deliveries < 1.3 * SETTINGS.nodes


def test_many_are_found_as_well_as_one(results: Results) -> None:
    """Records of a sweep are with the right peers and are found up to two hours later."""
    many = results.announcing[-1]
    assert many.costs.placed >= 0.95 * many.costs.places
    assert many.costs.lost == 0
    assert many.later.found >= 0.95 * many.later.tried
    assert many.age[1] >= 2


def test_the_network_is_what_it_claims() -> None:
    """A fifth lies, in four ways; nodes come and go; tables hold live peers mostly; the size stays."""
    world = World(200, liars=0.2, seed=5)
    world.pass_time(6 * HOUR)
    assert len(world.nodes) == 200
    assert world.joins > 20
    kinds = [node.manners for node in world.nodes.values()]
    assert 0.1 < 1 - kinds.count(Manners.HONEST) / 200 < 0.3
    assert set(kinds) == set(Manners)
    node = world.random_honest()
    world.maintain(node.table, 0.0)
    known = list(node.table)
    assert len(known) > 50
    assert sum(peer in world.nodes for peer in known) > 0.9 * len(known)


def test_the_command_prints_its_tables(capsys: pytest.CaptureFixture[str]) -> None:
    """Also for a small network; the exit code says whether what is promised was shown."""
    code = dht_simulation.main(["--nodes", "40", "--seed", "2", "--quick", "--liars", "0"])
    printed = capsys.readouterr().out
    assert "find the first provider" in printed
    assert "| 10,000 |" in printed
    assert code == 0

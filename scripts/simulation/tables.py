"""The figures as Markdown tables."""

from __future__ import annotations

from collections.abc import Sequence

from scripts.simulation.measure import Results


def render(results: Results) -> str:
    """The tables of the README."""
    settings = results.settings
    share = f"{settings.liars:.0%}"
    head = ["", "worked", "requests", "of these in vain", "hops", "median s", "95 % s", "right peers"]
    rows = []
    for liars, lookups in (("none", results.honest), (share, results.lying)):
        for each in lookups:
            rows.append(
                [
                    f"{each.what}, liars: {liars}",
                    f"{each.found} of {each.tried}",
                    f"{each.requests:.1f}",
                    f"{each.failures:.1f}",
                    f"{each.hops:.1f}",
                    f"{each.median:.2f}",
                    f"{each.slow:.2f}",
                    f"{each.right:.1%}" if each.right else "",
                ]
            )
    first = _table(head, rows)
    head = [
        "CIDs",
        "lookups",
        "requests",
        "deliveries",
        "(requests + deliveries) per CID",
        "of one lookup",
        "records per CID",
        "right peers",
        "lost",
        "found later",
        "age h",
    ]
    rows = []
    for each in results.announcing:
        costs = each.costs
        rows.append(
            [
                f"{costs.keys:,}",
                f"{costs.lookups:,}",
                f"{costs.requests:,}",
                f"{costs.deliveries:,}",
                f"{costs.messages_per_key:.3g}",
                _ratio(costs.messages_per_key / results.one_lookup),
                f"{costs.records / max(1, costs.keys):.1f}",
                f"{costs.placed / max(1, costs.places):.1%}",
                f"{costs.lost}",
                f"{each.later.found} of {each.later.tried}",
                f"{each.age[0]:.0f}-{each.age[1]:.1f}",
            ]
        )
    second = _table(head, rows)
    return (
        f"{settings.nodes:,} nodes; {results.joins:,} left and as many joined in {results.hours:.1f} virtual hours; "
        f"seed {settings.seed}\n\n{first}\n\nAnnouncing, liars: {share}\n\n{second}\n"
    )


def _ratio(part: float) -> str:
    return f"{part:.2f}" if part >= 0.1 else f"1/{1 / part:.0f}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)

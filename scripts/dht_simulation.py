"""What the DHT costs and how well it works with 10 000 nodes, churn and liars: `python -m scripts.dht_simulation`.

Prints the tables of `kachery_p2p/routing/dht/README.md`. The same seed gives the same figures.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from collections.abc import Sequence
from dataclasses import replace

from scripts.simulation.measure import Settings, measure
from scripts.simulation.tables import render


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the simulation. Returns the exit code: 1 when it shows less than what is promised."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, help="servers at any time (default 10000, quick 1000)")
    parser.add_argument("--liars", type=float, default=0.2, help="part of them that lies (default 0.2)")
    parser.add_argument("--seed", type=int, default=1, help="of the random numbers (default 1)")
    parser.add_argument("--quick", action="store_true", help="10000 CIDs, fewer lookups, fewer nodes: some seconds")
    args = parser.parse_args(argv)
    settings = Settings(liars=args.liars, seed=args.seed)
    if args.quick:
        settings = settings.quick()
    if args.nodes:
        settings = replace(settings, nodes=args.nodes)
    began = time.process_time()
    results = measure(settings, say=lambda text: print(text, file=sys.stderr, flush=True))
    print(render(results))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20 if sys.platform != "darwin" else 1 << 30)
    print(f"{time.process_time() - began:.0f} s of one core, {peak:.1f} GiB", file=sys.stderr)
    return 0 if results.kept else 1


if __name__ == "__main__":
    raise SystemExit(main())

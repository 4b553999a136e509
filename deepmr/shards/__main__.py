"""``python -m deepmr.shards --plan``: what the shards of a run will take, before it is started."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence

from deepmr import config as configuration
from deepmr.shards import plan, plan_text

_REFUSED = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the plan; return the exit status, 2 when there can be none."""
    parser = argparse.ArgumentParser(
        prog="python -m deepmr.shards",
        description="Try mutagenesis and MR on some random sequences on this machine, and predict "
        "minutes, memory and disk of each shard of a run.",
    )
    parser.add_argument("--plan", action="store_true", required=True, help="make the plan")
    parser.add_argument(
        "--configfile", default="config/config.yaml", metavar="FILE", help="default: %(default)s"
    )
    parser.add_argument(
        "--shards", type=_count, metavar="N", help="instead of sharding.shards of the configuration"
    )
    parser.add_argument(
        "--minutes",
        type=_positive,
        default=30.0,
        metavar="M",
        help="what a shard shall take; the suggestion follows it (default: %(default)g)",
    )
    parser.add_argument(
        "--seconds-per-sequence",
        type=_positive,
        metavar="S",
        help="of mutagenesis, measured elsewhere (on a GPU node, say); not measured here then",
    )
    parser.add_argument(
        "--json", action="store_true", help="end with one line that holds all as JSON"
    )
    asked = parser.parse_args(arguments)
    try:
        config = configuration.load(asked.configfile)
        print(f"Trying {', '.join(config['models'])}: half a minute or so", file=sys.stderr)
        made = plan.make(
            config,
            asked.shards or config["sharding"]["shards"],
            asked.minutes,
            asked.seconds_per_sequence,
            plan.TRIAL_SECONDS,
        )
    except (configuration.ConfigError, plan.PlanError) as error:
        print(error, file=sys.stderr)
        return _REFUSED
    print(plan_text.as_text(made))
    if asked.json:
        print(json.dumps(plan_text.as_json(made)))
    return 0


def _positive(text: str) -> float:
    value = float(text)
    if not value > 0:
        raise argparse.ArgumentTypeError(f"found {text}; write a number above 0")
    return value


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"found {text}; write a whole number from 1 up")
    return value


if __name__ == "__main__":
    sys.exit(main())

"""Drafts as trees on a terminal: what was drafted, what the target said of it, which path stood."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any, Final

from rich.console import Console
from rich.text import Text as Words
from rich.tree import Tree

from sprinter.cli.show import printable
from sprinter.core.records import Origin
from sprinter.observers.story import Call, Node

_STYLES: Final[dict[Origin | None, str]] = {
    "vouched": "green",
    "tested": "cyan",
    "resampled": "red",
    "bonus": "yellow",
    "target": "default",
    None: "dim strike",
}

Spell = Callable[[int], str]


def tell(rounds: Sequence[Call], spell: Spell, console: Console) -> None:
    """Print every round; `spell` gives a token's text."""
    for number, told in enumerate(rounds, start=1):
        console.print(_tree(number, told, spell))


def as_json(rounds: Sequence[Call], spell: Spell) -> list[dict[str, Any]]:
    """The rounds as JSON types."""
    return [
        {
            "drafted": [{**asdict(node), "text": spell(node.token)} for node in told.nodes],
            "own": None if told.own is None else {"token": told.own, "text": spell(told.own), "origin": told.origin},
        }
        for told in rounds
    ]


def _tree(number: int, told: Call, spell: Spell) -> Tree:
    stood = sum(node.fate is not None for node in told.nodes)
    heading = f"call {number}: {len(told.nodes)} drafted, {stood} stood" if told.nodes else f"call {number}: no draft"
    root = Tree(Words(heading, style="bold"), guide_style="dim")
    branches = {-1: root}
    for place, node in enumerate(told.nodes):
        branches[place] = branches[node.parent].add(_node(node, spell))
    if told.own is not None:
        last = max((place for place, node in enumerate(told.nodes) if node.fate is not None), default=-1)
        words = Words(_quoted(told.own, spell), style=_STYLES[told.origin])
        branches[last].add(words.append(f"  the target's own: {told.origin}", style="dim"))
    return root


def _node(node: Node, spell: Spell) -> Words:
    words = Words(_quoted(node.token, spell), style=_STYLES[node.fate])
    drawn = "chosen" if node.drawn_with == 1 else f"draft {node.drawn_with:.2f}"
    score = "" if node.score is None else f", score {node.score:.2f}"
    return words.append(f"  {node.fate or 'fell'}: {drawn}, target {node.target:.2f}{score}", style="not strike dim")


def _quoted(token: int, spell: Spell) -> str:
    return "'" + printable(spell(token)).replace("\n", "\\n") + "'"

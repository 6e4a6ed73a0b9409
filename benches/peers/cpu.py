"""What this CPU has, by Linux's names of its features."""

from pathlib import Path


def fields() -> dict[str, str]:
    """Of the last CPU in /proc/cpuinfo, which names them all alike."""
    text = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    pairs = (line.split(":", 1) for line in text.splitlines() if ":" in line)
    return {name.strip(): value.strip() for name, value in pairs}


def has(flag: str) -> bool:
    return flag in fields()["flags"].split()

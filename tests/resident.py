"""Memory of this process, as the system counts it."""
from pathlib import Path


def resident_bytes(path: Path) -> int | None:
    """Of the mapping of a file; None: it is not mapped."""
    is_it = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if line[:1] in "0123456789abcdef" and "-" in line.split()[0]:
            is_it = line.endswith(str(path))
        elif is_it and line.startswith("Rss:"):
            return int(line.split()[1]) * 1024
    return None

"""The Containerfile, read: what it copies is installed, what it runs is there, who runs is nobody special."""
import dataclasses
import json
import re
from pathlib import Path

from cli import unit
from cli.completion import PLACES
from node.config import HoldfastConfig

TEXT = (Path(__file__).parents[3] / "Containerfile").read_text()
# instruction and the rest of it, comments left out, continued lines joined
LINES = [tuple(line.split(None, 1)) for line in re.sub(r"(?m)^#.*\n", "", TEXT).replace("\\\n", " ").splitlines() if line.strip()]


def last_stage():
    starts = [number for number, (word, _) in enumerate(LINES) if word == "FROM"]
    assert len(starts) == 2, "a stage that builds and one that runs"
    return LINES[starts[-1]:]


def only(word):
    (rest,) = [rest for found, rest in last_stage() if found == word]
    return rest


def test_every_instruction_is_one():
    assert {word for word, _ in LINES} <= {"FROM", "RUN", "WORKDIR", "COPY", "USER", "VOLUME", "ENV", "EXPOSE", "STOPSIGNAL",
                                           "HEALTHCHECK", "ENTRYPOINT", "CMD"}


def test_both_stages_have_the_same_python():
    assert len({rest.split()[0] for word, rest in LINES if word == "FROM"}) == 1


def test_it_runs_as_the_user_that_it_makes_and_not_as_root():
    made = re.search(r"useradd [^&]*?(\w+)\s*$", next(rest for word, rest in last_stage() if word == "RUN"))
    assert made and only("USER") == made[1] == unit.USER
    assert [word for word, _ in last_stage()].index("USER") < [word for word, _ in last_stage()].index("ENTRYPOINT")


def test_data_is_a_volume_and_the_port_is_told():
    assert only("VOLUME") == str(unit.STATE) and only("EXPOSE") == "8080"
    assert only("ENV").endswith(":8080")


def test_what_is_copied_and_run_is_what_install_makes():
    copied = [rest.split()[-2].removeprefix("/image") for word, rest in last_stage() if word == "COPY"]
    for path in (unit.PREFIX, unit.COMMAND, unit.CONFIG, *PLACES.values()):
        assert any(str(path).startswith(place) for place in copied), path
    assert json.loads(only("ENTRYPOINT")) == [str(unit.COMMAND)] and json.loads(only("CMD")) == ["up"]
    health = json.loads(only("HEALTHCHECK").split("CMD", 1)[1])
    assert health[0].startswith(str(unit.PREFIX / "current"))
    compile(health[2], "HEALTHCHECK", "exec")


def test_settings_in_the_environment_are_settings():
    tables = {field.name: field.type for field in dataclasses.fields(HoldfastConfig)}
    name = re.match(r"HOLDFAST_([A-Z]+)_([A-Z_]+)=", only("ENV"))
    assert name and name[1].lower() in tables
    assert hasattr(getattr(HoldfastConfig(), name[1].lower()), name[2].lower())

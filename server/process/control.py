"""Commands that read or change state: through the running server's socket, or, when none runs, through one
started for the moment. Never two writers."""

import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import msgspec

from server.config import ConfigError, Settings
from storage.data_directory import DataDirectory

TIMEOUT_S = 3600.0
"""A backup of a large workshop takes its time."""


class Control:
    """Requests to the server as the local administrator."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    async def send(self, method: str, path: str, body: Any = None) -> Any:
        """The answer's JSON, None without one. Raises ConfigError with the problem's detail."""
        options = {} if body is None else {"json": body}
        async with self._session.request(method, f"http://facet{path}", **options) as response:
            raw = await response.read()
            answer = json.loads(raw) if raw else None
            if response.status >= 400:
                raise ConfigError(_one_line(answer))
            return answer


@contextlib.asynccontextmanager
async def control(settings: Settings, *, running_only: bool = False) -> AsyncIterator[Control]:
    """Raises ConfigError when the data directory cannot be used."""
    directory = DataDirectory(settings.data_dir)
    holder = directory.holder()
    if holder is not None and holder.is_here and holder.control is not None:
        async with _connected(Path(holder.control)) as connected:
            yield connected
        return
    if holder is not None and not settings.lets_many_serve:
        raise ConfigError(f"{settings.data_dir} is in use by process {holder.pid}, which is not serving yet")
    if running_only:
        raise ConfigError(f"no server is running on {settings.data_dir}")
    if directory.own_postgres.exists() and not settings.uses_postgresql:
        raise ConfigError(f"the demo in {settings.data_dir} does not run: start it with ./facet demo")
    if not settings.uses_postgresql and not directory.database.exists():
        raise ConfigError(f"there is no Facet data in {settings.data_dir}: set --data-dir")
    async with _started(settings) as connected:
        yield connected


@contextlib.asynccontextmanager
async def _started(settings: Settings) -> AsyncIterator[Control]:
    from server.app import build  # a running server needs none of this
    from server.process.listening import listen_locally, runner_of
    from server.process.serve import prepared_directory

    settings = msgspec.structs.replace(settings, model_workers=0)  # no command reads a model
    with prepared_directory(settings) as directory:
        runner = runner_of(build(settings, directory, lambda name, error: None), settings)
        await runner.setup()
        try:
            async with _connected(await listen_locally(runner, directory)) as connected:
                yield connected
        finally:
            await runner.cleanup()


@contextlib.asynccontextmanager
async def _connected(path: Path) -> AsyncIterator[Control]:
    connector = aiohttp.UnixConnector(str(path))
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
        try:
            yield Control(session)
        except aiohttp.ClientConnectionError as error:
            raise ConfigError(f"the running server does not answer: {error}") from None


def _one_line(problem: Any) -> str:
    errors = [f"{error['pointer']} {error['detail']}" for error in problem.get("errors", ())]
    return "; ".join([str(problem["detail"]), *errors]).replace("\n", " ")

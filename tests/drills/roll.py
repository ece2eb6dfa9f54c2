"""One release replaced by another under load: `python -m tests.drills.roll --from COMMIT [--to COMMIT]
[--back]`.

A server with two workers is started from a clone at the first commit. The clone is brought to the other while
visitors are served, and reloaded as a user would; with `--back` there and back again. No request may fail and
no acknowledged change may be lost. Prices that one release has promised are shown and explained by the next,
to the cent, and asked for again. Exit code 1 when that is not so.
"""

import argparse
import asyncio
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import aiohttp

from server.demo.private_servers.servers import PostgresServer, ValkeyServer
from storage.tasks import end
from tests.support import meshes
from tests.support.processes import Service, clients_of
from tests.support.template import ROOT
from tests.support.visitors import visited
from tests.support.worker_acts import answered, lost, until, workers

REQUESTS = 1_000
"""Answered between two steps."""


MODELS = {
    "STL": meshes.binary_stl(meshes.torus()),
    "GLB in metres": meshes.glb(meshes.torus() / 1000),
    "3MF": meshes.three_mf(meshes.torus()),
}
PRICES = "/v1/prices?material=silver-925"


class Promise(NamedTuple):
    model: str
    quote: str
    gross: object


class Plan(NamedTuple):
    commits: list[str]
    """In the order in which they serve."""


def cloned(clone: Path, commit: str) -> Path:
    subprocess.run(["git", "clone", "-q", ROOT, clone], check=True)
    check_out(clone, commit)
    return clone


def commit_of(name: str) -> str:
    return subprocess.check_output(["git", "rev-parse", name], cwd=ROOT, text=True).strip()


def check_out(clone: Path, commit: str) -> None:
    subprocess.run(["git", "-C", clone, "checkout", "-q", commit], check=True)


def reload(clone: Path, service: Service) -> str:
    """What the command said, of the release that is there now."""
    command = [sys.executable, "-m", "server", "reload", f"--data-dir={service.data_dir}"]
    done = subprocess.run(command, cwd=clone, capture_output=True, text=True)
    return f"{done.returncode} {done.stdout.strip()}{done.stderr.strip()}"


async def promised(url: str) -> list[Promise]:
    """Prices of the release that serves now."""
    async with clients_of(url) as clients:
        replies = {name: await clients.admin.send("POST", PRICES, data=body) for name, body in MODELS.items()}
    return [
        Promise(name, reply.json["price"]["id"], reply.json["price"]["gross"])
        for name, reply in replies.items()
    ]


async def broken(url: str, promises: list[Promise]) -> list[str]:
    """What the release that serves now makes of them otherwise."""
    wrong = []
    async with clients_of(url) as clients:
        for promise in promises:
            for query in ("", "?explain=1"):
                reply = await clients.admin.get(f"/v1/prices/{promise.quote}{query}")
                if reply.status != 200 or reply.json["gross"] != promise.gross:
                    wrong.append(f"a price of {promise.model}{query} became {reply}")
            again = await clients.admin.send("POST", PRICES, data=MODELS[promise.model])
            if again.status != 200 or again.json["price"]["gross"] != promise.gross:
                wrong.append(f"the price of {promise.model} is now {again}")
    return wrong


class Uploads:
    """New models one after the other, by whichever release answers."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.promises: list[Promise] = []
        self.wrong: list[str] = []
        self.cut = 0
        """Sent again, as any caller would: a price has no effect but itself."""

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            name = f"upload {len(self.promises)}"
            # Its header is what makes a model new.
            body = meshes.binary_stl(meshes.torus(9.0), name.encode())
            try:
                async with clients_of(self._url) as clients:
                    reply = await clients.admin.send("POST", PRICES, data=body)
            except aiohttp.ClientConnectionError:  # it took longer than the grace of a worker that leaves
                self.cut += 1
                continue
            if reply.status != 200 or reply.json["price"]["gross"] is None:
                self.wrong.append(f"{name} was answered {reply}")
                continue
            self.promises.append(Promise(name, reply.json["price"]["id"], reply.json["price"]["gross"]))

    async def kept(self) -> list[str]:
        """What the release that serves now makes of them otherwise."""
        wrong = list(self.wrong)
        async with clients_of(self._url) as clients:
            for promise in self.promises:
                reply = await clients.admin.get(f"/v1/prices/{promise.quote}")
                if reply.status != 200 or reply.json["gross"] != promise.gross:
                    wrong.append(f"the price of {promise.model} became {reply}")
        return wrong


async def roll(plan: Plan, folder: Path) -> list[str]:
    """What went wrong."""
    clone = cloned(folder / "checkout", plan.commits[0])
    with ValkeyServer(folder / "valkey") as valkey, PostgresServer(folder / "postgres") as postgres:
        service = Service(
            folder / "data",
            FACET_WORKERS="2",
            FACET_GRACE_S="0.5",
            FACET_MODEL_WORKERS="1",
            FACET_REDIS_URL=valkey.url,
            FACET_DATABASE_URL=postgres.url,
        )
        service.checkout = clone
        await asyncio.to_thread(service.start)
        wrong = []
        try:
            promises = await promised(service.url)
            async with visited(lambda: service.url) as tally:
                await answered(tally, REQUESTS)
                uploads = Uploads(service.url)
                uploading = asyncio.create_task(uploads.run())
                for commit in plan.commits[1:]:
                    before = workers(service)
                    check_out(clone, commit)
                    said = await asyncio.to_thread(reload, clone, service)
                    print(f"{commit}: {said}", flush=True)
                    await until(lambda: not workers(service) & before, service.log_text)  # noqa: B023
                    wrong += await broken(service.url, promises)
                    promises += await promised(service.url)
                    await answered(tally, REQUESTS)
                if uploading.done():
                    await uploading  # with its error
                await end(uploading)
                wrong += await uploads.kept()
            print(tally)
            new = len(uploads.promises)
            print(
                f"{len(promises) + new} prices promised, {new} of models new meanwhile, {len(wrong)} broken"
            )
            wrong += tally.failures
            if code := await asyncio.to_thread(service.stop):
                wrong.append(f"the server ended with {code}")
        finally:
            if service._process.poll() is None:
                service.kill()
        missing = lost(postgres.url, tally)
        print(f"{len(tally.acknowledged)} changes acknowledged, {len(missing)} lost")
        return wrong + [f"{change} is lost" for change in missing]


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.drills.roll", description=__doc__)
    parser.add_argument("--from", dest="before", required=True, help="the commit that serves first")
    parser.add_argument("--to", dest="after", default="HEAD")
    parser.add_argument("--back", action="store_true", help="and back again")
    chosen = parser.parse_args(arguments)
    names = [chosen.before, chosen.after, *([chosen.before] if chosen.back else [])]
    commits = [
        subprocess.check_output(["git", "rev-parse", name], cwd=ROOT, text=True).strip() for name in names
    ]
    with tempfile.TemporaryDirectory(prefix="facet-roll-") as folder:
        wrong = asyncio.run(roll(Plan(commits), Path(folder)))
    for each in wrong[:10]:
        print(f"  {each}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

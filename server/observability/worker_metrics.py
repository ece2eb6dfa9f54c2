"""`/metrics` with several workers: a scrape reaches one of them, and shows all.

Each worker's samples carry its number as the label `process`, so that counters stay counters: sums are the
monitoring's business. A worker that is asked through its control socket shows itself alone.
"""

import asyncio
import re
from pathlib import Path

import aiohttp
from aiohttp import web

from storage.data_directory import DataDirectory, Holder

DEADLINE_S = 1.0
"""A worker that does not answer by then is shown as one that does not."""
UP = "facet_worker_up"
_SAMPLE = re.compile(rb"(?m)^([a-z]\w*)(?:\{(.*)\})?( \S+)$")


class WorkerMetrics:
    """The workers of one parent."""

    def __init__(self, directory: DataDirectory) -> None:
        self._directory = directory

    async def everybody(self, own: bytes) -> bytes:
        """The metrics of all, this process's among them."""
        own_holder = self._directory.announced
        siblings = {
            number: Path(holder.control)
            for number, holder in self._directory.holders().items()
            if holder.control is not None and _are_siblings(holder, own_holder)
        }
        texts = await asyncio.gather(*(_ask(control) for control in siblings.values()))
        answers: dict[int, bytes | None] = {self._directory.instance: own}
        answers |= dict(zip(siblings, texts, strict=True))
        return merged(answers)


def _are_siblings(holder: Holder, own: Holder) -> bool:
    return holder.is_here and holder.parent == own.parent and holder.pid != own.pid


async def _ask(control: Path) -> bytes | None:
    """None when it does not answer."""
    timeout = aiohttp.ClientTimeout(total=DEADLINE_S)
    connector = aiohttp.UnixConnector(str(control))
    try:
        async with (
            aiohttp.ClientSession(connector=connector, timeout=timeout) as session,
            session.get("http://facet/metrics") as response,
        ):
            return await response.read() if response.status == 200 else None
    except (aiohttp.ClientError, OSError, TimeoutError):
        return None


def merged(answers: dict[int, bytes | None]) -> bytes:
    """One exposition of several: the samples of a metric stand together under its head."""
    families: dict[bytes, list[bytes]] = {}
    head = f"# HELP {UP} 1 when the worker answered the scrape.\n# TYPE {UP} gauge\n".encode()
    families[head] = [b'%s{process="%d"} %d\n' % (UP.encode(), n, answers[n] is not None) for n in answers]
    for number, text in answers.items():
        for part in (text or b"").split(b"# HELP ")[1:]:
            meaning, kind, samples = part.split(b"\n", 2)
            label = b'\\1{process="%d",\\2}\\3' % number
            families.setdefault(b"# HELP %s\n%s\n" % (meaning, kind), []).append(_SAMPLE.sub(label, samples))
    return b"".join(head + b"".join(samples) for head, samples in families.items())


WORKER_METRICS: web.AppKey[WorkerMetrics] = web.AppKey("siblings", WorkerMetrics)

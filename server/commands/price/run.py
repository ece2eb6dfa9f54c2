"""`./facet price FILE...`: prices model files without a server.

Several files are read by worker processes side by side, a bounded number ahead of the one whose answer is
written next; files of equal content are read once. The exit code is 0 when all files have an answer, 1 when
some were refused (the others are priced all the same), 2 when an argument is bad.
"""

import argparse
import asyncio
import contextlib
import os
import sys
import tempfile
from collections import OrderedDict, deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import NamedTuple

import msgspec
from msgspec import UNSET, UnsetType

from pricing.errors import Refused
from pricing.facts import SECOND_OPINION_DIFFERS, Facts, MeshWarning, Opinion
from pricing.pool import FactsPool, Limits
from pricing.price.formula import explain, price
from pricing.price.leave_out import parse_leave_out
from pricing.price.model_view import ModelView, model_view
from pricing.price.options import Options, check_options
from pricing.price.price_list import (
    DATA_BYTES_MAX,
    InvalidData,
    MetalFix,
    PriceList,
    default_metal_fix,
    default_price_list,
    parse_metal_fix,
    parse_price_list,
)
from pricing.price.stones import parse_stones
from pricing.price.supplied_facts import GIVEN_BYTES_MAX, given_facts
from server.commands.price.progress import ProgressBar
from server.commands.price.rows import CsvWriter, JsonWriter, Row, RowWriter, TableWriter
from server.commands.price.sources import (
    FACTS_SUFFIXES,
    MODEL_SUFFIXES,
    BadArgument,
    Content,
    ModelSource,
    content_of,
    document,
    expand,
    opened,
    unchanged,
)

_REFUSED, _BAD_ARGUMENT = 1, 2

AHEAD = 64
"""Files under way or waiting to be written: what is held does not grow with the number of files."""

CONTENTS_KNOWN = 10_000
"""Files whose facts are kept, so that one that comes again is not read again: some 1 KB each."""

_Found = tuple[Facts, Opinion | UnsetType]
_Verify = Callable[[Path, Facts], Awaitable[Opinion]]
_Known = tuple[ModelView, Facts]
_Answer = Callable[[ModelSource], Awaitable[_Known]]
"""The model and the facts of a file; raises Refused."""


class _Question(NamedTuple):
    """What is asked of every file."""

    options: Options
    price_list: PriceList
    metal_fix: MetalFix
    explained: bool

    def row(self, name: str, known: _Known) -> Row:
        model, facts = known
        asked = (facts, self.options, self.price_list, self.metal_fix)
        try:
            return Row(name, model, price(*asked), explain(*asked) if self.explained else ())
        except Refused as refused:
            return Row(name, model, refusal=refused)


def run(arguments: argparse.Namespace) -> int:
    """Price the files and print the answers; returns the exit code."""
    with tempfile.TemporaryDirectory(prefix="facet-price-") as spool:
        try:
            question = _question(arguments)
            check_options(question.options, question.price_list)
            suffixes = FACTS_SUFFIXES if arguments.facts else MODEL_SUFFIXES
            sources = expand(arguments.files, suffixes, Path(spool), arguments.wait)
        except Refused as refused:
            return _complain(f"{refused.detail} {refused.remedy}")
        except (OSError, InvalidData, BadArgument) as error:
            return _complain(str(error))
        return asyncio.run(_price(sources, question, arguments))


def _complain(message: str) -> int:
    print(f"facet price: {' '.join(message.split())}", file=sys.stderr)
    return _BAD_ARGUMENT


def _question(arguments: argparse.Namespace) -> _Question:
    if arguments.facts and arguments.units not in ("", "mm"):
        raise BadArgument("facts are in millimetres: leave out --units")
    if arguments.facts and arguments.leave_out:
        raise BadArgument("facts are no file with bodies: leave out --leave-out")
    if arguments.facts and arguments.verify:
        raise BadArgument("facts are no file that another program could read: leave out --verify")
    price_list, metal_fix = (
        None if path is None else document(path, DATA_BYTES_MAX, arguments.wait)
        for path in (arguments.price_list, arguments.metal_fix)
    )
    return _Question(
        Options(
            material=arguments.material,
            units=arguments.units,
            finish=arguments.finish,
            plating=arguments.plating,
            quantity=arguments.quantity,
            rush=arguments.rush,
            stones=parse_stones(arguments.stones),
            leave_out=parse_leave_out(arguments.leave_out),
        ),
        default_price_list() if price_list is None else parse_price_list(price_list),
        default_metal_fix() if metal_fix is None else parse_metal_fix(metal_fix),
        arguments.explain,
    )


async def _price(sources: Sequence[ModelSource], question: _Question, arguments: argparse.Namespace) -> int:
    progress = ProgressBar(len(sources), sys.stderr)
    writer = _writer(arguments)
    refused = 0
    async with _answerer(sources, arguments) as answer:

        async def row_of(source: ModelSource) -> Row:
            try:
                row = question.row(source.name, await answer(source))
            except Refused as refusal:
                row = Row(source.name, refusal=refusal)
            progress.step(source.name)
            return row

        async with contextlib.aclosing(_in_order(sources, row_of)) as rows:
            try:
                async for row in rows:
                    refused += row.refusal is not None
                    progress.wipe()
                    writer.row(row)
            finally:
                progress.wipe()
        writer.close()
    return _REFUSED if refused else 0


def _writer(arguments: argparse.Namespace) -> RowWriter:
    if arguments.json:
        return JsonWriter(sys.stdout)
    return CsvWriter(sys.stdout) if arguments.csv else TableWriter(sys.stdout)


async def _in_order(
    sources: Sequence[ModelSource], row_of: Callable[[ModelSource], Awaitable[Row]]
) -> AsyncGenerator[Row, None]:
    """The rows in the order of the files, at most AHEAD of them begun and not yet taken."""
    begun: deque[asyncio.Future[Row]] = deque()
    try:
        for source in sources:
            if len(begun) == AHEAD:
                yield await begun.popleft()
            begun.append(asyncio.ensure_future(row_of(source)))
        while begun:
            yield await begun.popleft()
    finally:
        for future in begun:
            future.cancel()
        await asyncio.gather(*begun, return_exceptions=True)


@contextlib.asynccontextmanager
async def _answerer(sources: Sequence[ModelSource], arguments: argparse.Namespace) -> AsyncIterator[_Answer]:
    """How files are read: given facts as they are, one mesh here, several by workers."""
    leave_out = parse_leave_out(arguments.leave_out)
    if arguments.facts:
        yield _given
    elif len(sources) == 1:  # starting workers would take longer than reading it
        verify = _opinion_here if arguments.verify else None
        yield _Meshes(partial(_analysed_here, leave_out=leave_out), verify, arguments.units).answer
    else:
        workers = min(_processors(), len(sources))
        pool = FactsPool(Limits(workers=workers, waiting=AHEAD))
        await pool.start()
        try:
            asked = _opinion_by(pool) if arguments.verify else None
            analysed = partial(pool.analyse, leave_out=leave_out)
            yield _Meshes(analysed, asked, arguments.units).answer
        finally:
            await pool.close()


def _processors() -> int:
    """Those this process may use; a container often has fewer than the machine."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not Linux
        return os.cpu_count() or 1


async def _given(source: ModelSource) -> _Known:
    with _openable(source):
        data = await asyncio.to_thread(_head_of, source.path)
    return given_facts(data)


def _head_of(path: Path) -> bytes:
    with opened(path) as file:
        return file.read(GIVEN_BYTES_MAX + 1)


async def _analysed_here(path: Path, leave_out: tuple[int, ...]) -> Facts:
    from pricing.mesh.analysis import (
        analyse,  # a second, which other commands and other ways here do not need
    )

    return analyse(await asyncio.to_thread(path.read_bytes), leave_out=leave_out)


async def _opinion_here(path: Path, facts: Facts) -> Opinion:
    from pricing.second_opinion import second_opinion  # another second

    return second_opinion(await asyncio.to_thread(path.read_bytes), facts)


def _opinion_by(pool: FactsPool) -> _Verify:
    async def opinion(path: Path, facts: Facts) -> Opinion:
        try:
            return await pool.opinion(path, facts)
        except Refused as refused:  # by a limit of its worker: our facts stand
            said = f"{refused.code}: {refused.detail}"
            return Opinion(state="not_possible", by="trimesh", at=datetime.now(UTC), reason=said)

    return opinion


def _disputed(facts: Facts, opinion: Opinion | UnsetType) -> Facts:
    if opinion is UNSET or opinion.state != "differs":
        return facts
    doubt = MeshWarning(SECOND_OPINION_DIFFERS, f"{opinion.by} reads the file differently. {opinion.reason}")
    return msgspec.structs.replace(facts, warnings=(*facts.warnings, doubt))


class _Meshes:
    """Facts of mesh files, and another program's opinion where it is asked for, once for each content."""

    def __init__(
        self, analysed: Callable[[Path], Awaitable[Facts]], verify: _Verify | None, units: str
    ) -> None:
        self._analysed = analysed
        self._verify = verify
        self._units = units
        self._known: OrderedDict[str, asyncio.Future[_Found]] = OrderedDict()

    async def answer(self, source: ModelSource) -> _Known:
        with _openable(source):
            content = await asyncio.to_thread(content_of, source.path)
            facts, opinion = await self._found(source.path, content)
        model = model_view(content.sha256, content.byte_count, facts, self._units, opinion)
        return model, _disputed(facts, opinion)

    async def _found(self, path: Path, content: Content) -> _Found:
        if (known := self._known.get(content.sha256)) is None:
            known = self._known[content.sha256] = asyncio.ensure_future(self._read(path, content))
            if len(self._known) > CONTENTS_KNOWN:
                self._known.popitem(last=False)
        return await known

    async def _read(self, path: Path, content: Content) -> _Found:
        facts = await self._analysed(path)
        opinion = UNSET if self._verify is None else await self._verify(path, facts)
        if not unchanged(path, content):
            raise Refused(
                "file_changed", "The file was written to while it was read.", "Price it when it is finished."
            )
        return facts, opinion


@contextlib.contextmanager
def _openable(source: ModelSource) -> Iterator[None]:
    """A file of a directory that cannot be read is refused; the others are priced."""
    try:
        yield
    except OSError as error:
        raise Refused(
            "unreadable", f"{error.strerror or error}.", f"Look at the file {source.name}."
        ) from error

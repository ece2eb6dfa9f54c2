"""Where the SQL of searches differs between the engines."""

from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

SCANNED_ROWS = 2_000
"""Of a list, looked through first: where there are many that match, there are enough among them."""
CANDIDATES_MAX = 7_000
"""Above that it takes longer to collect what the index has than to look through the list itself."""

_LINE = "char(10)"
_FROM_CUSTOMER = f"substr({{0}}, instr({{0}}, {_LINE}) + 1)"
_FROM_REFERENCE = f"substr({_FROM_CUSTOMER}, instr({_FROM_CUSTOMER}, {_LINE}) + 1)"
_SHORT_OF_SQLITE = (
    f"substr({{0}}, 1, instr({{0}}, {_LINE})) || substr({_FROM_REFERENCE}, 1,"
    f" instr({_FROM_REFERENCE}, {_LINE}) - 1)"
)
_SHORT_OF_POSTGRESQL = "split_part({0}, chr(10), 1) || chr(10) || split_part({0}, chr(10), 3)"


CANDIDATES = "candidates"


def _are_few() -> str:
    """Whether there are no more candidates than are worth looking up."""
    return f"(SELECT count(*) FROM {CANDIDATES}) <= {CANDIDATES_MAX}"


def are_all() -> sa.Label[bool]:
    """Whether no order that matches is missing among the candidates."""
    built = "(SELECT built >= until FROM search_index)"
    return sa.literal_column(f"({built} AND {_are_few()})").label("are_all")


def candidates(words: str) -> sa.CTE:
    """The numbers of orders that the search index has all tokens for, in the engine's words, and of those
    whose text it has yet to take in; at most one more than CANDIDATES_MAX."""
    sql = f"{words} UNION ALL SELECT number FROM search_pending LIMIT {CANDIDATES_MAX + 1}"
    tokens = sa.bindparam("tokens", type_=sa.Text)
    number = sa.column("number", sa.BigInteger)
    return sa.text(sql).bindparams(tokens).columns(number).cte(CANDIDATES).prefix_with("MATERIALIZED")


class IsCandidate(FunctionElement[Any]):
    """Of the number of an order; of none when there are too many. Each engine is led to look the candidates
    up, however many it expects."""

    type = sa.types.NullType()  # a Boolean would be compared with 1, which keeps SQLite from the index
    inherit_cache = True
    name = "is_candidate"


class InNumberOrReference(FunctionElement[Any]):
    """Of the text of an order, and a short one: whether number or reference contain that."""

    type = sa.Boolean()
    inherit_cache = True
    name = "in_number_or_reference"


@compiles(IsCandidate, "sqlite")
def _(element: IsCandidate, compiler: Any, **options: Any) -> str:
    number = compiler.process(element.clauses, **options)
    return f"{number} IN (SELECT number FROM {CANDIDATES} WHERE {_are_few()})"


@compiles(IsCandidate, "postgresql")
def _(element: IsCandidate, compiler: Any, **options: Any) -> str:
    number = compiler.process(element.clauses, **options)
    return f"{number} = ANY (ARRAY(SELECT number FROM {CANDIDATES} WHERE {_are_few()}))"


@compiles(InNumberOrReference, "sqlite")
def _(element: InNumberOrReference, compiler: Any, **options: Any) -> str:
    text, needle = (compiler.process(clause, **options) for clause in element.clauses)
    return f"instr({_SHORT_OF_SQLITE.format(text)}, {needle}) > 0"


@compiles(InNumberOrReference, "postgresql")
def _(element: InNumberOrReference, compiler: Any, **options: Any) -> str:
    text, needle = (compiler.process(clause, **options) for clause in element.clauses)
    return f"strpos({_SHORT_OF_POSTGRESQL.format(text)}, {needle}) > 0"

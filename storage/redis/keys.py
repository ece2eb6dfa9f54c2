"""What Redis holds, and under which names.

All names share one hash tag, so that a cluster keeps them on one node and a script may touch all of them.
Everything but `meta`, the shared cache and locks belongs to one epoch, one epoch of the log, and carries its
number: what an earlier life left behind can never be taken for something of this one.

| key | type | what |
|---|---|---|
| `{facet}:meta` | hash | `installation`, `epoch`, `run` of its Redis; `head`, `flushed`, `floor` |
| `{facet}:E:log` | stream | the log; an entry's id is its position, `epoch-n` |
| `{facet}:E:flushed` | stream | how far the database is, with the entries it refused |
| `{facet}:E:marks` | hash | order -> version and position of its newest change, until that is trimmed |
| `{facet}:E:claims` | hash | what only one may have -> its owner and the position, until that is trimmed |
| `{facet}:E:voids` | hash | order -> position of its last invalidation, until that is trimmed |
| `{facet}:E:order:ID` | string | the order; without expiry while the database lacks it |
| `{facet}:E:key:SCOPE` | string | position and entry that answered a keyed request |
| `{facet}:E:probe` | string | nothing: whether it can be set tells whether Redis is full |
| `{facet}:E:known` | set | scopes answered in earlier lives; the database has their answers |
| `{facet}:copy:KEY` | string | a copy that may be missing: see `storage.shared.cache` |
| `{facet}:turn:NAME` | string | who does what all want done once: see `storage.shared.locks` |

An entry of the log has the fields `p` (payload), `o` (order), `c` (claims and releases) and `f` (forgotten
order): other releases read them. The marks also hold one long value under no name: a short hash without one
is kept as a list and searched.
"""

VALUE_FORMAT = b"1"
"""First byte of an order's value. A reader takes another format for a miss, so that two releases can run side
by side."""


class Keys:
    def __init__(self, prefix: str, epoch: int) -> None:
        self.epoch = epoch
        self.tag = f"{{{prefix}}}"
        self.meta = f"{self.tag}:meta"
        self.space = f"{self.tag}:{epoch}:"
        self.log = f"{self.space}log"
        self.flushed = f"{self.space}flushed"
        self.marks = f"{self.space}marks"
        self.claims = f"{self.space}claims"
        self.voids = f"{self.space}voids"
        self.known = f"{self.space}known"
        self.probe = f"{self.space}probe"

    def order(self, order_id: str) -> str:
        return f"{self.space}order:{order_id}"

    def answer(self, scope: str) -> str:
        return f"{self.space}key:{scope}"


def encode_value(version: int, body: bytes) -> bytes:
    return b"%b%d %b" % (VALUE_FORMAT, version, body)


def version_of(value: bytes | None) -> int | None:
    """The order's version; None as for `body_of`."""
    if value is None or not value.startswith(VALUE_FORMAT):
        return None
    return int(value.partition(b" ")[0].removeprefix(VALUE_FORMAT))


def body_of(value: bytes | None) -> bytes | None:
    """The order's bytes; None for nothing, or for a format of another release."""
    if value is None or not value.startswith(VALUE_FORMAT):
        return None
    return value.partition(b" ")[2]

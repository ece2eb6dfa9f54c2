"""The guard before asyncpg's parser: every stream of messages passes, however it is cut, and no nonsense."""

import struct

from hypothesis import given
from hypothesis import strategies as st

from storage.postgresql.framing import HEADER, LENGTH_MAX, LENGTH_MIN, Frames

messages = st.lists(st.tuples(st.binary(min_size=1, max_size=1), st.binary(max_size=40)), max_size=12)
cuts = st.lists(st.integers(1, 17), min_size=1, max_size=40)
lengths = st.integers(-(2**31), LENGTH_MIN - 1) | st.integers(LENGTH_MAX + 1, 2**31 - 1)


def stream_of(parts: list[tuple[bytes, bytes]]) -> bytes:
    return b"".join(kind + struct.pack("!i", LENGTH_MIN + len(body)) + body for kind, body in parts)


def chunks(stream: bytes, sizes: list[int]) -> list[bytes]:
    found, at, count = [], 0, 0
    while at < len(stream):
        size = sizes[count % len(sizes)]
        found.append(stream[at : at + size])
        at, count = at + size, count + 1
    return found


@given(messages, cuts)
def test_messages_pass_however_they_are_cut(parts: list[tuple[bytes, bytes]], sizes: list[int]) -> None:
    frames = Frames()
    assert all(frames.follow(chunk) for chunk in chunks(stream_of(parts), sizes))


@given(messages, cuts, lengths)
def test_a_length_that_cannot_be_is_noticed_when_its_header_is_there(
    parts: list[tuple[bytes, bytes]], sizes: list[int], length: int
) -> None:
    frames, good = Frames(), stream_of(parts)
    followed = 0
    for chunk in chunks(good + b"D" + struct.pack("!i", length) + b"rest", sizes):
        followed += len(chunk)
        if not frames.follow(chunk):
            break
    else:
        raise AssertionError("it was never noticed")
    assert len(good) + HEADER.size <= followed < len(good) + HEADER.size + max(sizes)

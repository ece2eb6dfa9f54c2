"""Texts that were seen, in so many bits: most of those that were not are known for sure not to have been."""

import hashlib

PROBES = 4
PROBE_BYTES = 4


class BloomFilter:
    """`bits` is a power of two. With a million texts in 2**25 bits one of several thousand others is taken
    for one of them; with ten million, one of four."""

    def __init__(self, bits: int) -> None:
        self._mask = bits - 1
        self._bits = bytearray(bits // 8)

    def add(self, text: str) -> None:
        for probe in self._probes(text):
            self._bits[probe >> 3] |= 1 << (probe & 7)

    def __contains__(self, text: str) -> bool:
        """False: it was never added."""
        bits = self._bits
        return all(bits[probe >> 3] & (1 << (probe & 7)) for probe in self._probes(text))

    def _probes(self, text: str) -> list[int]:
        digest = hashlib.blake2b(text.encode(), digest_size=PROBES * PROBE_BYTES).digest()
        mask = self._mask
        return [
            int.from_bytes(digest[at : at + PROBE_BYTES], "little") & mask
            for at in range(0, PROBES * PROBE_BYTES, PROBE_BYTES)
        ]

"""The models themselves: files named by the SHA-256 of their content, the least recently used removed first
when all of them take more than the bound."""

import os
import shutil
from pathlib import Path


class ModelFiles:
    """Blocking: call it in a thread."""

    def __init__(self, directory: Path, bytes_max: int) -> None:
        self._directory = directory
        self._bytes_max = bytes_max
        self._byte_count = -1

    def path(self, sha256: str) -> Path | None:
        """Where a kept model lies; touches it, so that it is kept longer."""
        path = self._place(sha256)
        try:
            os.utime(path)
        except FileNotFoundError:
            return None
        return path

    def keep(self, sha256: str, body: bytes | Path) -> None:
        """Keep a file under its hash. The rename makes it appear whole or not at all."""
        path = self._place(sha256)
        if path.exists():
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        if isinstance(body, Path):
            shutil.copyfile(body, partial)
        else:
            partial.write_bytes(body)
        size = partial.stat().st_size
        partial.rename(path)
        if self._byte_count < 0:
            self._byte_count = sum(kept.stat().st_size for kept in self._all())
        else:
            self._byte_count += size
        if self._byte_count > self._bytes_max:
            self._remove_oldest()

    def _remove_oldest(self) -> None:
        """Down to nine tenths, so that not every new file pays for this."""
        for path in sorted(self._all(), key=lambda kept: kept.stat().st_mtime):
            if self._byte_count <= self._bytes_max * 0.9:
                return
            self._byte_count -= path.stat().st_size
            path.unlink()

    def _all(self) -> list[Path]:
        return [path for path in self._directory.glob("??/*") if path.is_file()]

    def _place(self, sha256: str) -> Path:
        return self._directory / sha256[:2] / sha256

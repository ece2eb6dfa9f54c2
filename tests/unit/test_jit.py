"""Machine code is made when Facet is installed, and never while a model waits for it."""

import subprocess
import sys

import pytest

from tests.support.template import ROOT

PROGRAM = """
import sys
import numpy as np
from pricing.mesh import columns, measures, topology
from pricing.mesh.analysis import analyse
from pricing.mesh.preview import preview
from pricing.mesh.warm import warm
from pricing.readers import ascii_stl
from tests.support import meshes

def signatures():
    return {
        (module.__name__, name): len(value.signatures)
        for module in (columns, measures, topology, ascii_stl)
        for name, value in vars(module).items()
        if hasattr(value, "signatures")
    }

warm()
assert "scipy.linalg" not in sys.modules  # a third of what a process would begin with
before = signatures()
ring, cube = meshes.torus(), meshes.cube()
shapes = [
    ring, cube[:1], cube[:2], meshes.flipped(ring), meshes.flipped(ring, 3, 77), ring[1:],
    np.concatenate([ring, ring]), np.concatenate([cube, cube + 5]), np.concatenate([cube, cube + 30]),
    np.concatenate([cube, meshes.flipped(meshes.cube(4.0, at=(3, 3, 3)))]),
    np.concatenate([meshes.flipped(cube), cube + 30]), np.concatenate([cube, meshes.cube(at=(10, 3, 0))]),
]
for shape in shapes:
    mirrored = meshes.glb(shape, scale=[1, -1, 1])
    for body in (meshes.binary_stl(shape), meshes.ascii_stl(shape), meshes.obj(shape), mirrored):
        analyse(body)
        preview(body)
after = signatures()
print({name: (before[name], after[name]) for name in after if before[name] != after[name]})
"""


@pytest.mark.slow
def test_no_model_has_anything_compiled_that_the_installation_has_not() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=ROOT, capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout.strip() == "{}"

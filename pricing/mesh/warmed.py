"""To be imported by the process that workers are forked from: all of them then have the machine code."""

import gc

from pricing.mesh.warm import warm

warm()
gc.collect()
gc.freeze()
"""Else the first collection of each worker copies the pages that it shares with the others."""

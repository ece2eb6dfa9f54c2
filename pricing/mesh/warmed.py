"""To be imported by the process that workers are forked from: all of them then have the machine code."""

from pricing.mesh.warm import warm

warm()

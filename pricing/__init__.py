"""From the bytes of a model file to a price.

Read in this order: `errors` and `units`; `facets` (what every reader hands out), `formats` (which format is
it), then one file per format (`stl`, `ascii_stl`, `obj`, `off`, `ply`, `glb`, `three_mf`) and `reading`;
`kernel` (volume, area, box, closedness in one pass), `weld` (vertices, edges, bodies), `solids`, `repair` and
`overlaps`; `facts` is what comes out and `analysis` ties these together. `judgement` says how firmly facts
may be priced, `price_list` is the data a price is made from, `formula` makes it and `explanation` shows how.
`pool` analyses in limited worker processes, `preview` makes a mesh small. `native` is how functions get
compiled.

The package knows no HTTP, SQL, Redis or environment.
"""

"""From the bytes of a model file to a price.

Read in this order: `errors` and `units`; `facets` (one view of triangles, whatever the file), `kernel`
(volume, area, box, closedness in one pass) `bodies` and `winding`; `formats` (which format is it), then one
file per format (`stl`, `obj`, `off`, `ply`, `glb`, `three_mf`); `facts` ties these into `analyse`.
`judgement` says how firmly facts may be priced, `price_list` is the data a price is made from, `formula`
makes it. `pool` runs `analyse` in limited worker processes.

The package knows no HTTP, SQL, Redis or environment.
"""

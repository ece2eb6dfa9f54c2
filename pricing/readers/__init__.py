"""Model files to the corners of their facets, a file for each format.

Reading order: `corners`, `formats`, `read`, `common`, `stl`, `ascii_stl`, `obj`, `off`, `ply`,
`glb`, `three_mf`, `roles`, `zip_package`, `xml_stream`, `triangulate`.
"""

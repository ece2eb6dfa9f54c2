"""From corners to facts: measures, shared vertices, columns, repair, overlapping bodies, a preview.

Reading order: `analysis`, `measures`, `topology`, `columns`, `bodies`, `repair`, `touching`, `overlaps`,
`preview`, `warm`, `warmed`.
"""

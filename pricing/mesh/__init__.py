"""From corners to facts: measures, shared vertices, repair, overlapping bodies, a preview.

Reading order: `analysis`, `measures`, `topology`, `repair`, `overlaps`, `preview`, `warm`, `warmed`.
"""

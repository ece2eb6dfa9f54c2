"""Orders, and lists of them.

Reading order: `orders`, `lists`.
"""

"""The resources over HTTP, a folder for each kind, a file for each noun.

Reading order: `orders`, `prices`, `access`, `operations`.
"""

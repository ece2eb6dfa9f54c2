"""What a person sees in a browser.

Reading order: `pages`, `rendering`, `api_docs`, `openapi`, `templates`.
"""

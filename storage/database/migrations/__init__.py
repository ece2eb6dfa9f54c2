"""Alembic's environment and the numbered migrations.

Reading order: `env`, `versions`.
"""

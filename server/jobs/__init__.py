"""Requests that are answered later.

Reading order: `running`, `respond`.
"""

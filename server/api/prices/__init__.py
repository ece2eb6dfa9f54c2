"""Prices, models, price lists, batches and jobs.

Reading order: `prices`, `models`, `versions`, `batches`, `jobs`.
"""

"""Prices, models, price lists, batches and jobs.

Reading order: `prices`, `models`, `verifications`, `versions`, `batches`, `jobs`.
"""

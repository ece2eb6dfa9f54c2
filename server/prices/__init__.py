"""Where pricing meets storage: facts of uploads, quotes, prices of orders, previews.

Reading order: `model_uploads`, `verification`, `quoting`, `order_prices`, `quotes`, `answer_cache`,
`previews`.
"""

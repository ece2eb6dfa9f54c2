"""What the server uses: one service for each noun, and the stack that puts them together.

Reading order: `stack`, `orders`, `order_numbers`, `idempotency`, `models`, `quotes`, `tokens`,
`price_versions`, `warming`.
"""

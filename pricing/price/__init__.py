"""From facts and options to a price, to the cent, with its explanation.

Reading order: `price_list`, `options`, `stones`, `leave_out`, `firmness`, `formula`, `explanation`,
`model_view`, `supplied_facts`.
"""

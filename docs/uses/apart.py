"""The shop taken apart: two applications with a database each, and one channel between them, over any broker.

Declared, not built: importing this raises `NotYetAvailable` at the first application.
"""

from shop import OrderPlaced, OrderShipped, PaymentProcessed, StockMissing, StockReserved, inventory, payments, shipping

from ensue import App, Channel

orders = Channel("orders", OrderPlaced, StockReserved, StockMissing, PaymentProcessed, OrderShipped)
# Where it is: ENSUE_CHANNEL_ORDERS=kafka://… or amqp://… or nats://…

front = App("front", inbox=[orders], outbox=[orders])  # what it stores is sent; what comes is stored, each event once
front.include(inventory)

back = App("back", inbox=[orders], outbox=[orders])
back.include(payments, shipping)

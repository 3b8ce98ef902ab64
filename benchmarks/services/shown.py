"""The demo's payment with what its operators see and search by, for the pages of the console."""

from __future__ import annotations

from stage.demo.payment import payment

payment.shows = {"amount": "amount", "currency": "currency"}
payment.indexed = {"order": "order_id"}

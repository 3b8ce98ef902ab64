"""The external API of the demo: a payment provider that keeps its own books and can misbehave.

    python -m stage.demo.psp --port 8090

It stands for the world outside the chain. It knows no saga: a charge is named by the
`Idempotency-Key` that made it, and the books count real effects, so that a test asks the world and
not our journal.

| Method and path                     | Effect                                                    |
|-------------------------------------|-----------------------------------------------------------|
| `POST /charges`                     | charge `{"amount": 100}` under an `Idempotency-Key`       |
| `GET /charges`                      | the books: one entry for each key, and totals             |
| `GET /charges/by-key/{key}`         | the charge made under a key, or 404 with `"unknown_key"`   |
| `POST /charges/by-key/{key}/refund` | refund it; an unknown key is closed for good (410)        |
| `POST /refunds`                     | the same, by `{"key": ..., "charge_id": ...}`             |
| `PUT /script`, `GET /script`        | misbehave from now on: see `script.py`                    |
"""

from stage.demo.psp.app import make_app

__all__ = ["make_app"]

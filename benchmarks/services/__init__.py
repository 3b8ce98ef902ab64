"""The measured services: each module serves `POST /sagas` on loopback and says when it listens."""

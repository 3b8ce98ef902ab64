"""What is measured: each module serves `POST /sagas` on loopback and says when it listens."""

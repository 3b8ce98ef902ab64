"""The engine within the process: live sagas as tasks, recovery, retention, drain."""

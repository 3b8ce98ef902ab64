// Books that survive a kill: one line for each change of a row, on the disk before it counts.
import { fsyncSync, openSync, readFileSync, writeSync } from "node:fs";

export class Books {
  #rows = new Map();
  #file;

  constructor(path) {
    this.#file = openSync(path, "a+");
    const lines = readFileSync(path, "utf8").split("\n");
    lines.pop(); // empty, or a line that a kill cut off
    for (const line of lines) this.#put(JSON.parse(line));
  }

  find(id) {
    return this.#rows.get(id);
  }

  rows() {
    return [...this.#rows.values()];
  }

  save(id, change) {
    const row = { ...this.#rows.get(id), ...change, id };
    writeSync(this.#file, JSON.stringify(row) + "\n");
    fsyncSync(this.#file);
    this.#put(row);
    return row;
  }

  #put(row) {
    this.#rows.set(row.id, row);
  }
}

// Books that survive a kill: one line for each change of a row, on the disk before it counts.
// The first start writes {"began":"2026-11-23T10:28:00Z"}: a saga from before may have been lost.
// Add such a line with the time of now when you put them back from a backup; the last one holds.
import { fsyncSync, openSync, readFileSync, writeSync } from "node:fs";

export class Books {
  #rows = new Map();
  #file;
  began;

  constructor(path) {
    this.#file = openSync(path, "a+");
    const lines = readFileSync(path, "utf8").split("\n");
    lines.pop(); // empty, or a line that a kill cut off
    for (const line of lines) {
      const row = JSON.parse(line);
      if (row.began === undefined) this.#put(row);
      else this.began = Date.parse(row.began);
    }
    if (this.began === undefined) {
      this.began = Date.now();
      this.#write({ began: new Date(this.began).toISOString() });
    }
  }

  find(id) {
    return this.#rows.get(id);
  }

  rows() {
    return [...this.#rows.values()];
  }

  save(id, change) {
    const row = { ...this.#rows.get(id), ...change, id };
    this.#write(row);
    this.#put(row);
    return row;
  }

  #write(line) {
    writeSync(this.#file, JSON.stringify(line) + "\n");
    fsyncSync(this.#file);
  }

  #put(row) {
    this.#rows.set(row.id, row);
  }
}

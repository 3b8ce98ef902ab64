// Books that survive a kill: one line for each change of a row, on the disk before it counts.
// The first start writes {"began":"2026-11-23T10:28:00Z"}: a saga from before may have been lost.
// Add such a line with the time of now when you put them back from a backup; the last one holds.
import { fsyncSync, ftruncateSync, openSync, readFileSync, writeSync } from "node:fs";

export class Books {
  #rows = new Map();
  #file;
  began;

  constructor(path) {
    this.#file = openSync(path, "a+");
    const written = readFileSync(path);
    const whole = written.lastIndexOf("\n") + 1;
    // A line that was cut off counts for nothing, and the next one must not be written behind it.
    if (whole < written.length) ftruncateSync(this.#file, whole);
    for (const line of written.toString("utf8", 0, whole).split("\n").slice(0, -1)) {
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
    const bytes = Buffer.from(JSON.stringify(line) + "\n");
    try {
      if (writeSync(this.#file, bytes) < bytes.length) throw new Error("a line was cut off");
      fsyncSync(this.#file);
    } catch (error) {
      // Nobody knows now how much of it is there: the next start sees, and no row counts before.
      console.error(`books: ${error.message}`);
      process.exit(1);
    }
  }

  #put(row) {
    this.#rows.set(row.id, row);
  }
}

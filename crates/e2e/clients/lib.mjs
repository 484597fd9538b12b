// What the test clients share: their argument, their output and the end.

import process from "node:process";

/** The settings that the test gives, one JSON object as the only argument. */
export function settings() {
  const given = JSON.parse(process.argv[2] ?? "null");
  if (typeof given?.url !== "string") {
    process.stderr.write('a JSON argument with "url" is needed\n');
    process.exit(64);
  }
  return given;
}

/** Prints a value as one line of JSON. */
export function emit(value) {
  process.stdout.write(`${JSON.stringify(value)}\n`);
}

/**
 * Says when enough frames have come: `exit_after` holds a number for each
 * frame type, and all of them must be reached. Without it there is never enough.
 */
export class Countdown {
  #left;

  constructor(exitAfter) {
    this.#left = exitAfter === undefined ? undefined : new Map(Object.entries(exitAfter));
  }

  /** Counts one frame; true once no more are wanted. */
  count(type) {
    if (this.#left === undefined) {
      return false;
    }
    const left = this.#left.get(type);
    if (left !== undefined) {
      this.#left.set(type, left - 1);
    }
    return [...this.#left.values()].every((number) => number <= 0);
  }
}

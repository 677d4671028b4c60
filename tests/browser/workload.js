/** Workers that write into PostgreSQL as workers do, and what they have written in the end. */

import assert from "node:assert/strict";
import { setTimeout as sleep } from "node:timers/promises";

/** A generator of numbers from 0 to 1 (mulberry32). */
export function random(seed) {
  let state = seed >>> 0;
  const next = () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
  return Object.assign(next, {
    below: (count) => Math.floor(next() * count),
    fork: () => random(Math.floor(next() * 2 ** 32)),
  });
}

/** Messages are `{ writer, n }`; a writer counts up through all streams, also what it rolls back. */
export class Workload {
  committed = new Set(); // "writer n", of transactions whose COMMIT was answered
  rolledBack = new Set();

  constructor(database, streams, random) {
    Object.assign(this, { database, streams, random });
  }

  /** So many writers, until `enough` of so many committed messages. `progress` hears of each transaction. */
  async run(writers, enough, progress = () => {}) {
    const all = Array.from({ length: writers }, (_, writer) => {
      return this.#write(writer, this.random.fork(), enough, progress);
    });
    await Promise.all(all);
  }

  async #write(writer, random, enough, progress) {
    let client = await this.database.connect();
    let n = 0;
    while (!enough(this.committed.size)) {
      const written = [];
      try {
        await client.query("BEGIN");
        for (let left = 1 + random.below(8); left > 0; left--) {
          const stream = this.streams[random.below(this.streams.length)];
          written.push(`${writer} ${++n}`);
          const data = JSON.stringify({ writer, n });
          await client.query("INSERT INTO tablecast_publish (stream, data) VALUES ($1, $2)", [stream, data]);
          if (random() < 0.3) await sleep(random.below(20));
        }
        // Others draw ids and commit meanwhile.
        if (random() < 0.1) await sleep(random.below(1500));
        const rollsBack = random() < 0.15;
        await client.query(rollsBack ? "ROLLBACK" : "COMMIT");
        for (const message of written) (rollsBack ? this.rolledBack : this.committed).add(message);
        progress(this.committed.size);
      } catch {
        // The database is away. What became of a COMMIT the table says.
        await client.end().catch(() => {});
        client = await this.database.connect();
      }
      await sleep(random.below(40));
    }
    await client.end();
  }

  /** A message behind all others; what tells it from them. */
  static isEnd = ({ writer, n }) => writer === -1 && n === 1;

  /** The first message of each stream, or behind all others the last. */
  async mark(n) {
    const sql = "INSERT INTO tablecast_publish (stream, data) VALUES ($1, $2)";
    for (const stream of this.streams) await this.database.query(sql, [stream, JSON.stringify({ writer: -1, n })]);
  }

  /** By stream, what is in the table. */
  async truth() {
    const rows = await this.database.query(
      "SELECT convert_from(channel, 'UTF8') AS stream, convert_from(payload, 'UTF8') AS data FROM solid_cable_messages ORDER BY id",
    );
    const truth = new Map(this.streams.map((stream) => [stream, []]));
    for (const { stream, data } of rows) truth.get(stream).push(JSON.parse(data));
    const all = new Set([...truth.values()].flat().map(({ writer, n }) => `${writer} ${n}`));
    assert.deepEqual([...this.committed].filter((message) => !all.has(message)), []);
    assert.deepEqual([...this.rolledBack].filter((message) => all.has(message)), []);
    return truth;
  }
}

/** Says what differs between what was written and what arrived of a stream: counts, and of each an example. */
export function compare(written, received) {
  const name = ({ writer, n }) => `${writer} ${n}`;
  const counts = new Map();
  for (const message of received) counts.set(name(message), (counts.get(name(message)) ?? 0) + 1);
  const [last, disordered] = [new Map(), []];
  for (const message of received) {
    if (message.n < last.get(message.writer)) disordered.push(name(message));
    last.set(message.writer, message.n);
  }
  const names = new Set(written.map(name));
  return {
    missing: [...names].filter((name) => !counts.has(name)),
    doubled: [...counts].filter(([, count]) => count > 1).map(([name]) => name),
    unknown: [...counts.keys()].filter((name) => !names.has(name)),
    disordered,
  };
}

export const NOTHING = { missing: [], doubled: [], unknown: [], disordered: [] };

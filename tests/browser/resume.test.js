/**
 * Clients whose connections are cut again and again while workers write: each message comes once.
 *
 * RESUME_FULL=1 runs it at length; RESUME_SEED=… repeats a run, as far as clocks let it.
 */

import assert from "node:assert/strict";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";

import { connect } from "./anycable.js";
import { postgres } from "./postgres.js";
import { relay } from "./relay.js";
import { complete, serve, TABLECAST } from "./support.js";
import { compare, NOTHING, random, Workload } from "./workload.js";

const FULL = process.env.RESUME_FULL === "1";
const SEED = Number(process.env.RESUME_SEED ?? Math.floor(Math.random() * 2 ** 32));
const STREAMS = ["chat:1", "chat:2"];
const WRITERS = 8;

async function database(t) {
  const database = await postgres(t);
  const { code, stderr } = await complete(t, TABLECAST, ["migrate", "--database-url", database.url]);
  assert.equal(code, 0, stderr);
  return database;
}

const server = (t, { url }, options) =>
  serve(t, ["--public-streams", "*", "--allowed-origins", "*"], { url, ...options });

/** Has `drop` cut something so many times while `messages` are committed, evenly, but for some milliseconds. */
function drops(count, messages, drop, random) {
  let due = 0;
  const cut = () => drop() || setTimeout(cut, 5);
  return (committed) => {
    while (due < count && committed >= ((due + 1) * messages) / (count + 1)) {
      due += 1;
      setTimeout(cut, random.below(100));
    }
  };
}

test(`an AnyCable client that hops between two servers gets each message once (RESUME_SEED=${SEED})`, async (t) => {
  const [messages, cuts] = FULL ? [10_000, 300] : [2_000, 60];
  const chance = random(SEED);
  const db = await database(t);
  const servers = [await server(t, db), await server(t, db)];
  const visits = servers.map(() => 0);
  const line = await relay(t, () => {
    const choice = chance.below(servers.length);
    visits[choice] += 1;
    return servers[choice].host;
  });
  const cable = connect(t, line.cable, { reconnectStrategy: () => 10 });
  const received = new Map(STREAMS.map((stream) => [stream, []]));
  const [infos, closes] = [[], []];
  const follow = (stream) => {
    const channel = cable.streamFrom(stream);
    channel.on("message", (message) => received.get(stream).push(message));
    channel.on("info", ({ type }) => infos.push(type));
    // A cut while its subscribe is unanswered closes a channel for ever.
    channel.on("close", (error) => {
      closes.push(error);
      if (cable.state !== "closed") setTimeout(follow, 0, stream);
    });
    return channel;
  };
  for (const stream of STREAMS) {
    await follow(stream).ensureSubscribed();
    await db.query("INSERT INTO tablecast_publish (stream, data) VALUES ($1, $2)", [
      stream, JSON.stringify({ writer: -1, n: 0 }),
    ]);
    while (received.get(stream).length === 0) await sleep(5); // from now on it has a position
  }

  const workload = new Workload(db, STREAMS, chance.fork());
  const cut = drops(cuts, messages, () => line.drop(), chance.fork());
  let restarts = 0;
  let restarting;
  await workload.run(WRITERS, messages, (committed) => {
    cut(committed);
    if (restarts < 2 && committed >= (messages * (restarts + 1)) / 3) {
      restarts += 1;
      restarting = db.restart();
    }
  });
  await restarting;
  await sleep(100); // the last cut
  for (const stream of STREAMS) {
    await db.query("INSERT INTO tablecast_publish (stream, data) VALUES ($1, $2)", [
      stream, JSON.stringify({ writer: -1, n: 1 }),
    ]);
    const isEnd = ({ writer, n }) => writer === -1 && n === 1;
    for (let looks = 0; !received.get(stream).some(isEnd); looks++) {
      assert.ok(looks < 3_000, `${stream} has not come to its end: ${cable.wire}`);
      await sleep(10);
    }
  }

  const truth = await workload.truth();
  const written = [...truth.values()].flat().length;
  t.diagnostic(
    `${written} messages, ${workload.rolledBack.size} rolled back, ${cable.wire.all("open").length} connections ` +
      `(${visits}), ${restarts} restarts of the database, ${closes.length} channels closed, ` +
      `${infos.length} histories`,
  );
  for (const stream of STREAMS) assert.deepEqual(compare(truth.get(stream), received.get(stream)), NOTHING, stream);
  assert.equal(infos.filter((type) => type !== "history_received").length, 0);
  assert.ok(visits.every((count) => count > cuts / 4), String(visits));
  assert.ok(cable.wire.all("open").length > cuts);
  assert.equal(restarts, 2);
});

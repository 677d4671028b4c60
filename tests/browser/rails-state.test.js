/** A job's bar in Rails' own client, while the server is killed again and again. STATE_SEED=… repeats a run. */

import assert from "node:assert/strict";
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";

import { WebSocket } from "ws";

import { defer, folder, Inbox, serve, sqlite3 } from "./support.js";
import { random } from "./workload.js";

// What it finds in a browser.
globalThis.addEventListener = globalThis.removeEventListener = () => {};
globalThis.document = { visibilityState: "visible" };

const { adapters, ConnectionMonitor, createConsumer } = await import("@rails/actioncable");

adapters.logger = { log() {} };
adapters.WebSocket = class extends WebSocket {
  constructor(url, protocols) {
    super(url, protocols, { origin: `http://${new URL(url).host}` });
  }
};

const SEED = Number(process.env.STATE_SEED ?? Math.floor(Math.random() * 2 ** 32));
const STEPS = 200;
const KILLS = 5;

test(`a page's last percentage is the table's, whatever befalls the server (STATE_SEED=${SEED})`, async (t) => {
  // It comes back after one or two seconds, not six to twelve.
  const { staleThreshold } = ConnectionMonitor;
  ConnectionMonitor.staleThreshold = 1;
  defer(t, () => (ConnectionMonitor.staleThreshold = staleThreshold));
  const chance = random(SEED);
  const cwd = await folder(t);
  await writeFile(
    join(cwd, "tablecast.toml"),
    '[[channel]]\nname = "ProgressChannel"\nstream = "progress:{job_id}"\nallow = "public"\nstate = true\n',
  );
  let server = await serve(t, [], { cwd });
  const { database } = server;
  const consumer = createConsumer(server.cable);
  const page = new Inbox("page");
  const callbacks = ["connected", "received"].map((kind) => [kind, (value) => page.push(kind, value)]);
  const subscription = consumer.subscriptions.create(
    { channel: "ProgressChannel", job_id: 42 },
    Object.fromEntries(callbacks),
  );
  defer(t, () => {
    subscription.unsubscribe();
    consumer.disconnect();
  });
  await page.next("connected");
  let steps = 0;
  const working = (async () => {
    for (let step = 1; step <= STEPS; step++) {
      const data = JSON.stringify({ step, percent: (100 * step) / STEPS });
      const insert = `INSERT INTO tablecast_publish (stream, data) VALUES ('progress:42', '${data}');`;
      await sqlite3(t, database, insert);
      steps = step;
      await sleep(chance.below(100));
    }
  })();

  const kills = Array.from({ length: KILLS }, () => 1 + chance.below(STEPS)).sort((a, b) => a - b);
  for (const kill of kills) {
    while (steps < kill) await sleep(5);
    await server.stop("SIGKILL");
    await sleep(chance.below(300));
    server = await serve(t, [], { cwd, listen: server.host });
    // A server that is killed before anybody comes is one that was away for longer.
    await page.next("connected");
  }
  await working;

  await page.next("received", ({ percent }) => percent === 100);
  const table = await sqlite3(t, database, "SELECT payload FROM solid_cable_messages ORDER BY id DESC LIMIT 1;");
  const shown = page.all("received");
  assert.deepEqual(shown.at(-1), JSON.parse(table));
  const back = shown.filter(({ step }, index) => index > 0 && step < shown[index - 1].step);
  assert.deepEqual(back, []);
  t.diagnostic(`${shown.length} of ${STEPS} steps shown, ${page.all("connected").length} connections`);
});

/** Rails' own client, as npm has it, against a tablecast server. */

import assert from "node:assert/strict";
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { describe, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";

import { WebSocket } from "ws";

import { defer, folder, Inbox, serve } from "./support.js";

// What it finds in a browser.
globalThis.addEventListener = globalThis.removeEventListener = () => {};
globalThis.document = { visibilityState: "visible" };

const { adapters, createConsumer } = await import("@rails/actioncable");

const wires = new Map(); // URL -> Inbox of the commands that were sent there

adapters.logger = { log() {} };
adapters.WebSocket = class extends WebSocket {
  constructor(url, protocols) {
    super(url, protocols, { origin: `http://${new URL(url).host}` });
  }

  send(text) {
    const { command, identifier } = JSON.parse(text);
    wires.get(this.url).push(command, identifier);
    super.send(text);
  }
};

const RETRY = 500; // ms after which the client repeats a subscribe that nobody answered

function connect(t, server) {
  const consumer = createConsumer(server.cable);
  consumer.wire = new Inbox(`commands to ${server.cable}`);
  wires.set(server.cable, consumer.wire);
  defer(t, () => {
    for (const subscription of [...consumer.subscriptions.subscriptions]) subscription.unsubscribe();
    consumer.disconnect();
  });
  return consumer;
}

/** A subscription whose callbacks fill its `inbox`. */
function subscribe(consumer, params) {
  const inbox = new Inbox(`subscription ${JSON.stringify(params)}`);
  const names = ["connected", "disconnected", "rejected", "received"];
  const callbacks = Object.fromEntries(names.map((name) => [name, (value) => inbox.push(name, value)]));
  return Object.assign(consumer.subscriptions.create(params, callbacks), { inbox });
}

const stream = (name) => ({ channel: "$pubsub", stream_name: name });

const VALUES = [
  { status: "working", percent: 50, message: "page 5 of 10" },
  {},
  [],
  "",
  "a string",
  "it's \"quoted\" \\ / \b\f\n\r\t \u0000 \u007f",
  "Zoë 進捗 🚀 👩‍👩‍👧 e\u0301 \u2028 \u2029 \ufeff",
  '<turbo-stream action="append" target="messages"><template><p class=\'a\'>1 &lt; 2 &amp; 3</p></template></turbo-stream>',
  "</script><!--",
  0,
  -1.5,
  1e-7,
  Number.MAX_SAFE_INTEGER,
  Number.MAX_VALUE,
  null,
  true,
  false,
  { nested: [[{ a: [null, { "": { "ключ": [1, "two", [3]] } }] }]] },
];

describe("rails client", () => {
  test("a subscription is confirmed once, as a first connection", async (t) => {
    const server = await serve(t, ["--public-streams", "progress:*"]);
    const consumer = connect(t, server);

    const subscription = subscribe(consumer, stream("progress:42"));

    assert.deepEqual(await subscription.inbox.next("connected"), { reconnected: false });
    await server.insert("progress:42", "after");
    await subscription.inbox.next("received");
    assert.equal(subscription.inbox.all("connected").length, 1);
    assert.equal(consumer.connection.getProtocol(), "actioncable-v1-json");
  });

  test("what SQL publishes arrives intact, in order and once", async (t) => {
    const server = await serve(t, ["--public-streams", "progress:*"]);
    const { inbox } = subscribe(connect(t, server), stream("progress:42"));
    await inbox.next("connected");

    await server.insert("progress:42", ...VALUES);
    await server.insert("progress:43", "of another stream");
    await server.insert("progress:42", "the end");

    await inbox.next("received", (message) => message === "the end");
    assert.deepEqual(inbox.all("received"), [...VALUES, "the end"]);
  });

  test("what POST /broadcast publishes arrives intact, in order and once", async (t) => {
    const server = await serve(t, ["--public-streams", "progress:*"]);
    const { inbox } = subscribe(connect(t, server), stream("progress:42"));
    await inbox.next("connected");

    for (const data of VALUES) {
      const response = await server.broadcast({ stream: "progress:42", data });
      assert.equal(response.status, 201);
    }
    const batch = [...VALUES, "the end"].map((data) => ({ stream: "progress:42", data }));
    const response = await server.broadcast(batch);
    assert.equal(response.status, 201);
    assert.equal((await response.json()).ids.length, batch.length);

    await inbox.next("received", (message) => message === "the end");
    assert.deepEqual(inbox.all("received"), [...VALUES, ...VALUES, "the end"]);
  });

  test("with --compression large messages take less of the wire, in both directions", async (t) => {
    const server = await serve(t, ["--public-streams", "progress:*", "--compression"]);
    const consumer = connect(t, server);
    const { inbox } = subscribe(consumer, { ...stream("progress:42"), padding: "x".repeat(3000) });
    await inbox.next("connected");
    const { webSocket } = consumer.connection;
    const page = "<li class='job'>half way</li>".repeat(4000);
    const before = webSocket._socket.bytesRead;

    await server.insert("progress:42", "small", page, ...VALUES, "the end");

    await inbox.next("received", (message) => message === "the end");
    assert.deepEqual(inbox.all("received"), ["small", page, ...VALUES, "the end"]);
    assert.match(webSocket.extensions, /permessage-deflate/);
    assert.ok(webSocket._socket.bytesRead - before < page.length / 2);
    // ws compresses what is larger than 1024 bytes, and so that subscribe.
    assert.ok(webSocket._socket.bytesWritten < 3000);
  });

  test("nothing comes any more after an unsubscribe", async (t) => {
    const server = await serve(t, ["--public-streams", "progress:*"]);
    const consumer = connect(t, server);
    const [goes, stays] = ["progress:1", "progress:2"].map((name) => subscribe(consumer, stream(name)));
    await Promise.all([goes, stays].map(({ inbox }) => inbox.next("connected")));
    const frames = new Inbox("frames");
    consumer.connection.webSocket.addEventListener("message", ({ data }) => frames.push("frame", data));

    goes.unsubscribe();
    // Commands are carried out in order, so this one's confirmation comes after that.
    const later = subscribe(consumer, stream("progress:3"));
    await later.inbox.next("connected");
    await server.insert("progress:1", "to nobody");
    await server.insert("progress:2", "to somebody");

    await stays.inbox.next("received");
    assert.deepEqual(frames.all("frame").filter((frame) => frame.includes("to nobody")), []);
  });

  test("a channel rule of tablecast.toml opens its channel", async (t) => {
    const cwd = await folder(t);
    await writeFile(
      join(cwd, "tablecast.toml"),
      '[[channel]]\nname = "ProgressChannel"\nstream = "progress:{job_id}"\nallow = "public"\n',
    );
    const server = await serve(t, [], { cwd });
    const consumer = connect(t, server);

    const job = subscribe(consumer, { channel: "ProgressChannel", job_id: 42 });
    const nameless = subscribe(consumer, { channel: "ProgressChannel" });

    await job.inbox.next("connected");
    await nameless.inbox.next("rejected");
    await server.insert("progress:43", { percent: 43 });
    await server.insert("progress:42", { percent: 42 });
    assert.deepEqual(await job.inbox.next("received"), { percent: 42 });
  });
});

// These wait for what the client does by its own clock, so they run side by side. It repeats
// an unanswered subscribe twice a second, and looks every 6 to 12 s whether to come back.
describe("rails client, by its clock", { concurrency: true }, () => {
  for (const [what, open, params] of [
    ["an unknown channel", "*", { channel: "NoSuchChannel", id: 1 }],
    ["a stream that no rule opens", "progress:*", stream("secret:42")],
    ["Rails' own stream, though all are open,", "*", stream("action_cable/1")],
  ]) {
    test(`${what} is rejected once, and the client lets it be`, async (t) => {
      const server = await serve(t, ["--public-streams", open]);
      const consumer = connect(t, server);

      const { inbox } = subscribe(consumer, params);

      await inbox.next("rejected");
      const asked = consumer.wire.all("subscribe").length;
      await sleep(4 * RETRY);
      assert.equal(inbox.all("rejected").length, 1);
      assert.equal(inbox.all("connected").length, 0);
      assert.equal(consumer.wire.all("subscribe").length, asked);
    });
  }

  test("two subscriptions of one identifier are both connected, get each message once and fall silent", async (t) => {
    const server = await serve(t, ["--public-streams", "progress:*"]);
    const consumer = connect(t, server);
    const first = subscribe(consumer, stream("progress:42"));
    await first.inbox.next("connected");

    const second = subscribe(consumer, stream("progress:42"));
    await second.inbox.next("connected");

    // Rails, which answers the first alone, would be asked for ever, twice a second.
    const asked = consumer.wire.all("subscribe").length;
    await sleep(5 * RETRY);
    assert.equal(consumer.wire.all("subscribe").length, asked);
    await server.insert("progress:42", 1, 2);
    for (const { inbox } of [first, second]) {
      await inbox.next("received", (message) => message === 2);
      assert.deepEqual(inbox.all("received"), [1, 2]);
    }
  });

  test("an unsubscribe and a subscribe of one identifier, back to back, end subscribed", async (t) => {
    const server = await serve(t, ["--public-streams", "progress:*"]);
    const consumer = connect(t, server);
    let subscription = subscribe(consumer, stream("progress:42"));
    await subscription.inbox.next("connected");
    const left = [];

    for (let navigation = 0; navigation < 20; navigation++) {
      left.push(subscription);
      subscription.unsubscribe();
      subscription = subscribe(consumer, stream("progress:42"));
    }

    assert.equal(consumer.wire.all("unsubscribe").length, 20);
    await subscription.inbox.next("connected");
    await sleep(RETRY); // where an unsubscribe might be late
    await server.insert("progress:42", 1, 2);
    await subscription.inbox.next("received", (message) => message === 2);
    assert.deepEqual(subscription.inbox.all("received"), [1, 2]);
    assert.deepEqual(left.flatMap(({ inbox }) => inbox.all("received")), []);
  });

  for (const [what, signal, end] of [
    ["is told to stop", "SIGTERM", 0],
    ["is killed", "SIGKILL", "SIGKILL"],
  ]) {
    test(`comes back by itself after the server ${what}`, async (t) => {
      const server = await serve(t, ["--public-streams", "progress:*"]);
      const consumer = connect(t, server);
      const subscriptions = ["progress:1", "progress:2"].map((name) => subscribe(consumer, stream(name)));
      const all = (kind) => Promise.all(subscriptions.map(({ inbox }) => inbox.next(kind)));
      await all("connected");

      const ended = server.stop(signal);

      assert.deepEqual(await all("disconnected"), Array(2).fill({ willAttemptReconnect: true }));
      assert.equal(await ended, end);
      const successor = await serve(t, ["--public-streams", "progress:*"], {
        cwd: server.folder,
        listen: server.host,
      });
      // It tells the first that is confirmed alone.
      assert.deepEqual(await all("connected"), [{ reconnected: true }, { reconnected: false }]);
      await successor.insert("progress:1", "one");
      await successor.insert("progress:2", "two");
      assert.deepEqual(await all("received"), ["one", "two"]);
    });
  }
});

/** web/tablecast.js, late or back again: in Node against real servers and scripted ones, and in Chromium. */

import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";

import { WebSocket, WebSocketServer } from "ws";

import { defer, Inbox, openPage, serve } from "./support.js";

const CLIENT = join(import.meta.dirname, "../../web/tablecast.js");
const EXTENDED = "actioncable-v1-ext-json";
const PLAIN = "actioncable-v1-json";

// What it finds in a browser.
globalThis.WebSocket = class extends WebSocket {
  constructor(url, protocols) {
    super(url, protocols, { origin: `http://${new URL(url).host}` });
    this.on("error", () => {}); // which nobody need listen to there
  }
};

const { connect } = await import(CLIENT);

function cable(t, url) {
  const inbox = new Inbox(`cable to ${url}`);
  const cable = connect(url, {
    status: (status) => inbox.push("status", status),
    frame: (text, direction) => inbox.push(direction, JSON.parse(text)),
  });
  defer(t, () => cable.close());
  return Object.assign(cable, { inbox });
}

/** A subscription whose callbacks fill its inbox; a message with its position. */
function subscribe(cable, identifier, options) {
  const inbox = new Inbox(`subscription ${JSON.stringify(identifier)}`);
  const names = ["connected", "disconnected", "rejected", "missed"];
  const callbacks = Object.fromEntries(names.map((name) => [name, (value) => inbox.push(name, value)]));
  callbacks.received = (message, { position }) => {
    inbox.push("received", message);
    inbox.push("position", position);
  };
  return Object.assign(inbox, cable.subscribe(identifier, callbacks, options));
}

const open = (t, server = {}) => serve(t, ["--public-streams", "*"], { cwd: server.folder, listen: server.host });
const commands = (cable) => cable.inbox.all("out").filter(({ command }) => command === "subscribe");
const until = (subscription, last) => subscription.next("received", (message) => message === last);

test("what came while the server was away is received once, in its order", async (t) => {
  const server = await open(t);
  const it = cable(t, server.cable);
  const [busy, quiet] = [subscribe(it, "busy"), subscribe(it, "quiet")];
  await Promise.all([busy.next("connected"), quiet.next("connected")]);
  await server.insert("busy", 1, 2);
  await until(busy, 2);

  await server.stop("SIGKILL");
  await server.insert("busy", 3, 4);
  await server.insert("elsewhere", -1);
  const successor = await open(t, server);
  await busy.next("connected", ({ reconnected }) => reconnected);
  await successor.insert("busy", 5);
  await until(busy, 5);

  assert.deepEqual(busy.all("received"), [1, 2, 3, 4, 5]);
  const positions = busy.all("position");
  assert.equal(new Set(positions).size, 5);
  assert.ok(positions.every((position) => /^[\w-]+$/.test(position)), positions);
  const [, , again, quietly] = commands(it);
  const [[, { epoch }]] = Object.entries(again.history.streams);
  assert.equal(epoch, positions[1]);
  assert.deepEqual(quietly.history.streams, {});
  assert.ok(Number.isInteger(quietly.history.since));
  assert.deepEqual([...busy.all("missed"), ...quiet.all("missed")], []);
});

test("a stream that was silent until the server went is caught up by the clock", async (t) => {
  const server = await open(t);
  const subscription = subscribe(cable(t, server.cable), "s");
  await subscription.next("connected");

  await server.stop("SIGKILL");
  await server.insert("s", 1);
  const successor = await open(t, server);
  await until(subscription, 1);
  await successor.insert("s", 2);
  await until(subscription, 2);

  assert.deepEqual(subscription.all("received"), [1, 2]);
  assert.deepEqual(subscription.all("missed"), []);
});

test("a subscription begins where it is told to, and asks once for all who share it", async (t) => {
  const server = await open(t);
  const first = subscribe(cable(t, server.cable), "s");
  await first.next("connected");
  await server.insert("s", 1);
  const from = await first.next("position");
  await server.insert("s", 2, 3);
  await until(first, 3);

  const later = cable(t, server.cable);
  const [one, same, other, plain] = [{ from }, { from }, { from: "another" }, {}].map((options) =>
    subscribe(later, "s", options),
  );
  await until(one, 3);

  assert.deepEqual(one.all("received"), [2, 3]);
  assert.deepEqual(await other.next("missed"), { reason: "shared" });
  for (const subscription of [one, same, plain]) assert.deepEqual(subscription.all("missed"), []);
  assert.equal(commands(later).length, 1);
  const late = subscribe(later, "s");
  await late.next("connected");
  await server.insert("s", 4);
  for (const subscription of [one, same, other, plain, late]) await until(subscription, 4);
  assert.deepEqual(late.all("received"), [4]);
  assert.equal(commands(later).length, 1);

  // In one breath: what the one that ends still gets is not the new one's.
  one.unsubscribe();
  [same, other, plain, late].forEach((subscription) => subscription.unsubscribe());
  const again = subscribe(later, "s", { from });
  await server.insert("s", 5);
  await until(again, 5);
  assert.deepEqual(again.all("received"), [2, 3, 4, 5]);
});

test("a position that the server can't go on from is told once, and forgotten", async (t) => {
  const server = await open(t);
  const it = cable(t, server.cable);
  const subscription = subscribe(it, "s", { from: "garbage" });

  assert.deepEqual(await subscription.next("missed"), {});
  assert.deepEqual(subscription.all("connected"), [{ reconnected: false }]);
  await server.stop("SIGKILL");
  await subscription.next("disconnected");
  const successor = await open(t, server);
  await subscription.next("connected", ({ reconnected }) => reconnected);
  await it.inbox.next("in", ({ type }) => type === "confirm_history");
  await successor.insert("s", 1);
  await until(subscription, 1);

  assert.equal(subscription.all("missed").length, 1);
});

/** A server whose answers to the n-th subscribe a test writes; `commands` are what it is sent. */
async function scripted(t, protocol, answers) {
  const server = new WebSocketServer({ port: 0, host: "127.0.0.1", handleProtocols: () => protocol });
  const end = () => server.clients.forEach((client) => client.terminate());
  defer(t, () => (end(), server.close()));
  await new Promise((resolve) => server.on("listening", resolve));
  const commands = new Inbox("commands");
  server.on("connection", (socket) => {
    const send = (frame) => socket.send(JSON.stringify(frame));
    send({ type: "welcome" });
    socket.on("message", (text) => {
      const command = JSON.parse(text);
      commands.push("command", command);
      answers.shift()?.forEach((frame) => send({ identifier: command.identifier, ...frame }));
    });
  });
  return { url: `ws://127.0.0.1:${server.address().port}/cable`, commands, end };
}

const CONFIRM = { type: "confirm_subscription" };

test("a server of plain Action Cable has no positions", async (t) => {
  const server = await scripted(t, PLAIN, [[CONFIRM, { message: 1 }], [CONFIRM]]);
  const subscription = subscribe(cable(t, server.url), "s", { from: "p1" });

  assert.deepEqual(await subscription.next("missed"), { reason: "unsupported" });
  await until(subscription, 1);
  assert.deepEqual(subscription.all("position"), [undefined]);
  server.end();
  await subscription.next("connected", ({ reconnected }) => reconnected);
  assert.equal(subscription.all("missed").length, 1);
  for (const command of server.commands.all("command")) assert.deepEqual(Object.keys(command), ["command", "identifier"]);
});

test("a message without a position moves nothing, and another server's position is given back as it came", async (t) => {
  const position = { stream_id: "chat:1", epoch: "e/1", offset: "9007199254740993123" };
  const server = await scripted(t, EXTENDED, [
    [CONFIRM, { message: 1, ...position }, { message: 2 }],
    [CONFIRM, { type: "reject_history" }],
    [CONFIRM, { type: "reject_history" }],
  ]);
  const subscription = subscribe(cable(t, server.url), "s");
  await until(subscription, 2);
  assert.deepEqual(subscription.all("position"), ["e/1", "e/1"]);

  for (const reconnection of [1, 2]) {
    server.end();
    assert.deepEqual(await subscription.next("missed"), {}, reconnection);
  }

  const [first, second, third] = server.commands.all("command");
  assert.deepEqual(first.history, { streams: {} });
  const { stream_id, epoch, offset } = position;
  assert.deepEqual(second.history, { streams: { [stream_id]: { epoch, offset } } });
  assert.deepEqual(third.history.streams, {});
  assert.ok(Math.abs(third.history.since - Date.now() / 1000) < 120);
});

test("of one that was left and comes again in the same breath, the first one's answers are no answers", async (t) => {
  const position = { stream_id: "s", epoch: "p1", offset: 1 };
  const server = await scripted(t, EXTENDED, [
    [],
    [CONFIRM, { message: "the first one's", ...position }, { type: "confirm_history" }],
    [],
    [CONFIRM, { message: 1, ...position }, { type: "reject_history" }],
  ]);
  const it = cable(t, server.url);
  subscribe(it, "another");
  await server.commands.next("command");
  const first = subscribe(it, "s");
  first.unsubscribe();
  const second = subscribe(it, "s", { from: "p0" });

  assert.deepEqual(await second.next("missed"), {});
  assert.deepEqual(second.all("received"), [1]);
  assert.equal(second.all("connected").length, 1);
  assert.deepEqual(first.all("received"), []);
});

test("one that comes twice in a breath is given what it missed once", async (t) => {
  const server = await open(t);
  const first = subscribe(cable(t, server.cable), "s");
  await first.next("connected");
  await server.insert("s", 0, ...Array.from({ length: 30 }, (_, n) => n + 1));
  const from = await first.next("position");

  // As a page does whose components are mounted twice, to try them.
  const later = cable(t, server.cable);
  await subscribe(later, "another").next("connected");
  for (let visit = 0; visit < 50; visit++) {
    subscribe(later, "s", { from }).unsubscribe();
    const again = subscribe(later, "s", { from });
    await until(again, 30);
    assert.deepEqual(again.all("received"), Array.from({ length: 30 }, (_, n) => n + 1));
    again.unsubscribe();
  }
});

test("the clock moves on what is silent, but nothing that is still being given what newcomers are", async (t) => {
  const began = Math.floor(Date.now() / 1000);
  const [earlier, later] = [-1000, 1000].map((seconds) => ({ type: "ping", message: began + seconds }));
  const answered = [CONFIRM, { type: "confirm_history" }];
  for (const [answers, moved] of [
    [[CONFIRM, later], 0],
    [[...answered, later], 1000],
    [[...answered, earlier], -1000], // ours was ahead
  ]) {
    const server = await scripted(t, EXTENDED, [answers]);
    const it = cable(t, server.url);
    const subscription = subscribe(it, "s");
    await it.inbox.next("in", ({ type }) => type === "ping");
    server.end();
    await subscription.next("disconnected");
    await server.commands.next("command");
    const { history } = await server.commands.next("command");
    assert.deepEqual(history.streams, {});
    assert.ok(Math.abs(history.since - began - moved) < 120, `${history.since - began}`);
    assert.deepEqual(subscription.all("missed"), []);
  }
});

test("in Chromium a page goes on where it was, after a restart and by a position that it kept", async (t) => {
  const server = await open(t);
  const page = await openPage(t, `${server.origin}/nothing`);
  await page.route("**/tablecast.js", async (route) =>
    route.fulfill({ contentType: "text/javascript", body: await readFile(CLIENT, "utf8") }),
  );
  const inbox = new Inbox("the page's subscription");
  await page.exposeFunction("happened", (kind, value) => inbox.push(kind, value));
  const start = (from) =>
    page.evaluate(async (from) => {
      const { connect } = await import("/tablecast.js");
      globalThis.cable = connect();
      const received = (message, { position }) => {
        happened("position", position);
        happened("received", message);
      };
      const names = ["connected", "missed"];
      const others = Object.fromEntries(names.map((name) => [name, (value) => happened(name, value)]));
      cable.subscribe("s", { received, ...others }, { from });
    }, from);

  await start();
  await inbox.next("connected");
  await server.insert("s", 1);
  const from = await inbox.next("position");
  await server.stop("SIGTERM");
  await server.insert("s", 2);
  const successor = await open(t, server);
  await until(inbox, 2);
  await page.evaluate(() => cable.close());
  await successor.insert("s", 3);
  await start(from);
  await until(inbox, 3);

  assert.deepEqual(inbox.all("received"), [1, 2, 2, 3]);
  assert.deepEqual(inbox.all("missed"), []);
});

/** AnyCable's own client, as npm has it, with its extended protocol, against a tablecast server. */

import assert from "node:assert/strict";
import { createReadStream } from "node:fs";
import { rm, writeFile } from "node:fs/promises";
import { createServer } from "node:http";
import { join } from "node:path";
import { describe, test } from "node:test";

import { connect, listen } from "./anycable.js";
import { relay } from "./relay.js";
import { complete, defer, folder, metric, openPage, serve, TABLECAST, value } from "./support.js";

const SETTINGS = `
public_streams = ["*"]
secret = ["s3Krit-s3Krit-s3Krit-s3Krit-s3Krit"]

[[channel]]
name = "ProgressChannel"
stream = "progress:{job_id}"
allow = "public"
state = true

[[channel]]
name = "LogChannel"
stream = "log:{job_id}"
allow = "public"
replay = 3
`;

async function start(t, ...args) {
  const cwd = await folder(t);
  await writeFile(join(cwd, "tablecast.toml"), SETTINGS);
  return serve(t, args, { cwd });
}

/** The next server at the same address, on the same database. */
const restart = (t, server, ...args) => serve(t, args, { cwd: server.folder, listen: server.host });

const seconds = () => Math.floor(Date.now() / 1000);

const range = (from, to) => Array.from({ length: to - from + 1 }, (_, index) => from + index);

/** A cable, a channel of it that is connected, and what happens to that. */
async function subscribed(t, server, subscribe, options) {
  const cable = connect(t, server.cable, options);
  const inbox = listen(subscribe(cable));
  await inbox.next("connect");
  return { cable, inbox };
}

const streamFrom = (name) => (cable) => cable.streamFrom(name);

/** Everything that was published until now has come. */
async function settled(server, inbox, stream) {
  const end = `end ${Math.random()}`;
  await server.insert(stream, end);
  await inbox.next("message", (message) => message === end);
  return inbox.all("message").filter((message) => !String(message).startsWith("end "));
}

describe("anycable client", () => {
  test("a public stream is subscribed to by its name, and each message says where it stands", async (t) => {
    const server = await start(t);
    const cable = connect(t, server.cable);

    const inbox = listen(cable.streamFrom("chat:1"));

    assert.deepEqual(await inbox.next("connect"), { reconnect: false, restored: false });
    assert.deepEqual(await inbox.next("info"), { type: "history_received", data: undefined });
    const values = [{ text: "<b>" }, "Zoë 🚀 \u2028", 1.5, true, [], { nested: [null] }];
    await server.insert("chat:1", ...values);
    assert.deepEqual(await settled(server, inbox, "chat:1"), values);
    const metas = inbox.all("meta");
    assert.equal(new Set(metas.map(({ epoch }) => epoch)).size, values.length + 1);
    assert.equal(new Set(metas.map(({ stream }) => stream)).size, 1);
    for (const { stream, epoch, offset } of metas) {
      assert.match(stream, /^[\w-]+$/);
      assert.match(epoch, /^[\w-]+$/);
      assert.ok(Number.isSafeInteger(offset));
    }
    assert.equal(cable.wire.socket.protocol, "actioncable-v1-ext-json");
    assert.equal(String(cable.complaints), "nothing");
  });

  test("a newcomer to a state is given the latest message, once", async (t) => {
    const server = await start(t);
    await server.insert("progress:1", { percent: 10 }, { percent: 20 });

    const { inbox } = await subscribed(t, server, (cable) => cable.subscribeTo("ProgressChannel", { job_id: 1 }));

    await inbox.next("info", ({ type }) => type === "history_received");
    await server.insert("progress:1", { percent: 30 });
    assert.deepEqual(await settled(server, inbox, "progress:1"), [{ percent: 20 }, { percent: 30 }]);
  });

  for (const [what, historyTimestamp] of [
    ["whose page is new", () => seconds() + 30],
    ["that asks for no history", () => false],
  ]) {
    test(`a newcomer ${what} is given so many of the last messages, oldest first`, async (t) => {
      const server = await start(t);
      await server.insert("log:1", 1, 2, 3, 4, 5);

      const { inbox } = await subscribed(t, server, (cable) => cable.subscribeTo("LogChannel", { job_id: 1 }), {
        historyTimestamp: historyTimestamp(),
      });

      await inbox.next("message", (message) => message === 5);
      assert.deepEqual(await settled(server, inbox, "log:1"), [3, 4, 5]);
    });
  }

  test("what came between a page's rendering and its subscription is given", async (t) => {
    const server = await start(t);
    const rendered = seconds();
    await server.insert("chat:1", 1, 2);
    await server.insert("chat:2", "of another stream");

    const { inbox } = await subscribed(t, server, streamFrom("chat:1"), { historyTimestamp: rendered });

    await inbox.next("info", ({ type }) => type === "history_received");
    await server.insert("chat:1", 3);
    assert.deepEqual(await settled(server, inbox, "chat:1"), [1, 2, 3]);
  });

  test("a signed name opens its stream, and no other does", async (t) => {
    const server = await start(t);
    const secret = /secret = \["(.*)"\]/.exec(SETTINGS)[1];
    const { stdout: signed } = await complete(t, TABLECAST, ["sign", "--anycable", "--secret", secret, "room:1"]);

    const { cable, inbox } = await subscribed(t, server, (cable) => cable.streamFromSigned(signed.trim()));
    const forged = listen(cable.streamFromSigned(signed.trim().replace(/.$/, "x")));

    assert.equal((await forged.next("close")).name, "SubscriptionRejectedError");
    await server.insert("room:1", { text: "hello" });
    assert.deepEqual(await settled(server, inbox, "room:1"), [{ text: "hello" }]);
  });

  for (const signal of ["SIGTERM", "SIGKILL"]) {
    test(`after a ${signal} a client is given what it missed: of streams all, of a state the latest, once`, async (t) => {
      let server = await start(t);
      const cable = connect(t, server.cable);
      const chat = listen(cable.streamFrom("chat:1"));
      const log = listen(cable.subscribeTo("LogChannel", { job_id: 1 }));
      const state = listen(cable.subscribeTo("ProgressChannel", { job_id: 1 }));
      const quiet = listen(cable.streamFrom("quiet"));
      const all = [chat, log, state, quiet];
      for (const inbox of all) await inbox.next("connect");

      for (let round = 0; round < 3; round++) {
        const n = 10 * round;
        await server.insert("chat:1", n + 1, n + 2);
        await server.insert("log:1", n + 1, n + 2);
        await server.insert("progress:1", { percent: n + 1 }, { percent: n + 2 });
        for (const inbox of [chat, log]) await inbox.next("message", (message) => message === n + 2);
        await state.next("message", ({ percent }) => percent === n + 2);
        await server.stop(signal);
        await server.insert("chat:1", ...range(n + 3, n + 10));
        await server.insert("log:1", ...range(n + 3, n + 10));
        if (round < 2) await server.insert("progress:1", ...range(n + 3, n + 10).map((percent) => ({ percent })));
        server = await restart(t, server);
        for (const inbox of all) {
          await inbox.next("connect", ({ reconnect }) => reconnect);
          await inbox.next("info", ({ type }) => type === "history_received");
        }
      }

      assert.deepEqual(await settled(server, chat, "chat:1"), range(1, 30));
      assert.deepEqual(await settled(server, log, "log:1"), range(1, 30));
      const percents = (await settled(server, state, "progress:1")).map(({ percent }) => percent);
      // Nobody has missed anything in the third round.
      assert.deepEqual([1, 2, 10, 11, 12, 20, 21, 22].filter((percent) => !percents.includes(percent)), []);
      assert.deepEqual(percents, [...new Set(percents)].sort((a, b) => a - b));
      assert.deepEqual(await settled(server, quiet, "quiet"), []);
      assert.deepEqual(all.flatMap((inbox) => inbox.all("close")), []);
    });
  }

  test("without a session's id the client comes back all the same, and shows none", async (t) => {
    const server = await start(t);
    const { cable, inbox } = await subscribed(t, server, streamFrom("chat:1"));
    await server.stop("SIGKILL");
    const successor = await restart(t, server);
    await inbox.next("connect", ({ reconnect }) => reconnect);
    await successor.stop("SIGTERM"); // after a disconnect frame it sends an empty one
    await restart(t, successor);

    await inbox.next("connect", ({ reconnect }) => reconnect);

    assert.deepEqual(cable.wire.all("in").filter(({ sid }) => sid !== undefined), []);
    const sids = cable.wire.all("open").map((url) => new URL(url).searchParams.get("sid"));
    assert.deepEqual(sids.filter(Boolean), []);
  });

  test("a client with positions of another history is told so, and hears what comes from then on", async (t) => {
    const server = await start(t);
    const cable = connect(t, server.cable);
    const chat = listen(cable.streamFrom("chat:1"));
    const log = listen(cable.subscribeTo("LogChannel", { job_id: 1 }));
    const state = listen(cable.subscribeTo("ProgressChannel", { job_id: 1 }));
    for (const [inbox, stream] of [[chat, "chat:1"], [log, "log:1"], [state, "progress:1"]]) {
      await inbox.next("connect");
      await server.insert(stream, "old");
      await inbox.next("message");
    }
    await server.stop("SIGKILL");
    for (const end of ["", "-wal", "-shm"]) await rm(server.database + end, { force: true });
    await (await serve(t, [], { cwd: server.folder })).stop("SIGTERM");
    for (const stream of ["chat:1", "log:1", "progress:1"]) await server.insert(stream, "new");

    const successor = await restart(t, server);

    for (const [inbox, stream, given] of [
      [chat, "chat:1", []],
      [log, "log:1", ["new"]],
      [state, "progress:1", ["new"]],
    ]) {
      await inbox.next("info", ({ type }) => type === "history_not_found");
      assert.deepEqual(await settled(successor, inbox, stream), ["old", ...given], stream);
    }
    // Now they can go on from here.
    const infos = chat.all("info").length;
    await successor.stop("SIGKILL");
    await successor.insert("chat:1", "missed");
    const third = await restart(t, successor);
    await chat.next("message", (message) => message === "missed");
    assert.equal(chat.all("info").slice(infos).at(-1)?.type ?? (await chat.next("info")).type, "history_received");
    assert.deepEqual(await settled(third, chat, "chat:1"), ["old", "missed"]);
  });

  test("whispers go to nobody, and nobody is there: nothing hangs, throws or closes", async (t) => {
    const server = await start(t);
    const { cable, inbox } = await subscribed(t, server, streamFrom("chat:1"));
    const { channel } = inbox;

    await channel.whisper({ event: "typing" });
    await channel.presence.join("7", { name: "J" });
    assert.deepEqual(await channel.presence.info(), {});
    await channel.presence.leave();
    await channel.presence.join("8", { name: "K" });

    assert.deepEqual(await settled(server, inbox, "chat:1"), []);
    await server.stop("SIGTERM");
    const successor = await restart(t, server);
    await inbox.next("connect", ({ reconnect }) => reconnect);
    assert.deepEqual(await channel.presence.info(), {});
    await successor.insert("chat:1", 1);
    assert.deepEqual(await settled(successor, inbox, "chat:1"), [1]);
    const resubscribed = cable.wire.all("out").findLast(({ command }) => command === "subscribe");
    assert.deepEqual(resubscribed.presence, { id: "8", info: { name: "K" } });
    assert.deepEqual(inbox.all("close"), []);
    assert.deepEqual(cable.complaints.all("error"), []);
  });

  test("a client that answers heartbeats is heard out", async (t) => {
    const server = await start(t);
    const { cable, inbox } = await subscribed(t, server, streamFrom("chat:1"), { protocolOptions: { pongs: true } });

    await cable.wire.next("out", ({ command }) => command === "pong");

    await server.insert("chat:1", 1);
    assert.deepEqual(await settled(server, inbox, "chat:1"), [1]);
    assert.equal(cable.wire.all("open").length, 1);
  });

  test("one that reads too slowly comes back for the rest, and misses nothing", async (t) => {
    const server = await start(t, "--send-buffer-bytes", "64KiB");
    const { cable, inbox } = await subscribed(t, server, streamFrom("chat:1"), { maxMissingPings: 100 });
    const late = listen(cable.streamFrom("chat:2"));
    await late.next("connect");
    const padding = "x".repeat(4000);
    const publish = (n) =>
      server.insert("chat:1", ...range(500 * n + 1, 500 * n + 500).map((number) => ({ number, padding })));

    cable.wire.socket.pause();
    // Until it is more than the kernel takes for it. Why it is disconnected it is told for some seconds.
    let n = 0;
    while ((await value(server, 'tablecast_deliveries_total{result="slow_consumer"}')) < 1) await publish(n++);
    cable.wire.socket.resume();
    await inbox.next("disconnect", ({ reason }) => reason === "slow_consumer");
    while (n < 8) await publish(n++);

    await inbox.next("message", ({ number }) => number === 4000);
    assert.deepEqual((await settled(server, inbox, "chat:1")).map(({ number }) => number), range(1, 4000));
    assert.deepEqual([inbox, late].flatMap((inbox) => inbox.all("close")), []);
  });

  test("who unsubscribes hears nothing more, and who subscribes again what there was meanwhile", async (t) => {
    const server = await start(t);
    const { cable, inbox } = await subscribed(t, server, streamFrom("chat:1"));
    await server.insert("chat:1", 1);
    await inbox.next("message");

    inbox.channel.disconnect();
    await cable.wire.next("out", ({ command }) => command === "unsubscribe");
    await server.insert("chat:1", 2);
    const again = listen(cable.streamFrom("chat:1"));

    await again.next("connect");
    // The client keeps a stream's position for as long as the page lives.
    await server.insert("chat:1", 3);
    assert.deepEqual(await settled(server, again, "chat:1"), [2, 3]);
    assert.deepEqual(inbox.all("message"), [1]);
  });

  test("channels that come and go in one breath, as Turbo's navigation makes them, end subscribed", async (t) => {
    const server = await start(t);
    const { cable, inbox } = await subscribed(t, server, streamFrom("chat:1"));
    let last = inbox;
    for (let navigation = 0; navigation < 10; navigation++) {
      last.channel.disconnect();
      last = listen(cable.streamFrom("chat:1"));
    }

    await last.next("connect");
    await server.insert("chat:1", 1);
    assert.deepEqual(await settled(server, last, "chat:1"), [1]);
    assert.deepEqual(cable.complaints.all("error"), []);
  });

  test("two identifiers of one stream go on each from where it was", async (t) => {
    const server = await start(t);
    const cable = connect(t, server.cable);
    const one = listen(cable.streamFrom("log:1"));
    await one.next("connect");
    await server.insert("log:1", 1, 2);
    await one.next("message", (message) => message === 2);
    const other = listen(cable.subscribeTo("LogChannel", { job_id: 1 }));
    await other.next("message", (message) => message === 2);
    one.channel.disconnect();
    // Commands are carried out in their order.
    await listen(cable.streamFrom("chat:1")).next("connect");
    await server.insert("log:1", 3, 4);
    await other.next("message", (message) => message === 4);
    await server.stop("SIGKILL");
    await server.insert("log:1", 5);

    const successor = await restart(t, server);
    const again = listen(cable.streamFrom("log:1"));

    await Promise.all([again, other].map((inbox) => inbox.next("message", (message) => message === 5)));
    assert.deepEqual(await settled(successor, other, "log:1"), [1, 2, 3, 4, 5]);
    assert.deepEqual(await settled(successor, again, "log:1"), [3, 4, 5]);
    assert.deepEqual(one.all("message"), [1, 2]);
  });
});

// Its client closes a channel for ever whose subscribe nobody had answered when the connection ended.
describe("anycable client, leaving and coming", { concurrency: true }, () => {
  test("a subscribe that is on its way when the server is told to stop is answered", async (t) => {
    const server = await start(t);
    const line = await relay(t, server.host);
    const cable = connect(t, line.cable);
    await cable.connect();
    line.hold();
    const channels = range(1, 5).map((n) => listen(cable.streamFrom(`chat:${n}`)));
    await line.holds();

    server.program.signal("SIGTERM");
    await server.program.output.next("stderr", (text) => text.includes("shutting down"));
    line.release();

    for (const inbox of channels) await inbox.next("disconnect", ({ reason }) => reason === "server_restart");
    await server.program.ended();
    await comeBack(t, server, cable, channels);
  });

  test("so is the first one of a client that is far away", async (t) => {
    const server = await start(t);
    const line = await relay(t, server.host, { delay: 75 });
    const cable = connect(t, line.cable);
    const inbox = listen(cable.streamFrom("chat:1"));

    await metric(server, "tablecast_connections", 1);
    await server.stop("SIGTERM");

    await comeBack(t, server, cable, [inbox]);
  });

  test("a server that is told to stop at any moment closes no channel, and nothing is missed", async (t) => {
    let server = await start(t);
    const cable = connect(t, server.cable, { reconnectStrategy: () => 1 });
    const channels = range(1, 5).map((n) => listen(cable.streamFrom(`chat:${n}`)));
    const rounds = 8;

    for (const round of range(1, rounds)) {
      await cable.wire.next("in", ({ type }) => type === "welcome");
      const moment = Math.random() * 20;
      await new Promise((resolve) => setTimeout(resolve, moment));
      await server.stop("SIGTERM");
      await server.insert("chat:3", round);
      server = await restart(t, server);
    }

    await comeBack(t, server, cable, channels);
    assert.deepEqual(await settled(server, channels[2], "chat:3"), range(1, rounds));
  });

  test("nobody answers for a server that was killed, and a page that listens for it subscribes again", async (t) => {
    const server = await start(t);
    const line = await relay(t, server.host);
    const cable = connect(t, line.cable);
    await cable.connect();
    line.hold();
    const inbox = listen(cable.streamFrom("chat:1"));
    await line.holds();

    await server.stop("SIGKILL");
    line.drop();

    await inbox.next("close");
    line.release();
    const again = listen(cable.streamFrom("chat:1"));
    await comeBack(t, server, cable, [again]);
  });
});

/** A server is there again; all are connected, and none has closed. */
async function comeBack(t, server, cable, channels) {
  const { exitCode, signalCode } = server.program.child;
  const runs = exitCode === null && signalCode === null;
  const successor = runs ? server : await restart(t, server);
  for (const inbox of channels) await inbox.channel.ensureSubscribed();
  await successor.insert(/stream_name":"([^"]*)/.exec(channels[0].channel.identifier)[1], "back");
  await channels[0].next("message", (message) => message === "back");
  assert.deepEqual(channels.flatMap((inbox) => inbox.all("close")), []);
  assert.equal(cable.state, "connected");
}

test("anycable web, in a page: what came after its rendering, and after a restart", async (t) => {
  const files = {
    "@anycable/core": "node_modules/@anycable/core/index.js",
    "@anycable/web": "node_modules/@anycable/web/index.js",
    nanoevents: "node_modules/nanoevents/index.js",
  };
  const server = await start(t, "--allowed-origins", "*");
  const rendered = seconds();
  await server.insert("chat:1", 1);
  const imports = Object.fromEntries(Object.entries(files).map(([name, file]) => [name, `/${file}`]));
  const html = `<!doctype html><link rel="icon" href="data:,">
    <meta name="cable-url" content="${server.cable}"><meta name="cable-history-timestamp" content="${rendered}">
    <script type="importmap">${JSON.stringify({ imports })}</script>`;
  const pages = createServer(({ url }, response) => {
    const path = new URL(url, "http://page").pathname;
    response.setHeader("content-type", path === "/" ? "text/html" : "text/javascript");
    if (path === "/") return response.end(html);
    createReadStream(join(import.meta.dirname, path)).on("error", () => response.writeHead(404).end()).pipe(response);
  });
  await new Promise((listening) => pages.listen(0, "127.0.0.1", listening));
  defer(t, () => {
    pages.closeAllConnections();
    pages.close();
  });
  const page = await openPage(t, `http://127.0.0.1:${pages.address().port}/`);
  await page.evaluate(async () => {
    const { createCable } = await import("@anycable/web");
    globalThis.happened = [];
    const cable = createCable({ protocol: "actioncable-v1-ext-json", reconnectStrategy: () => 50 });
    const channel = cable.streamFrom("chat:1");
    for (const kind of ["message", "info", "close"]) {
      channel.on(kind, (value) => happened.push([kind, value.type ?? value]));
    }
    await channel.ensureSubscribed();
  });
  const saw = (what) =>
    page.waitForFunction((what) => happened.some((event) => JSON.stringify(event) === what), JSON.stringify(what));
  await server.insert("chat:1", 2);
  await saw(["message", 2]);

  await server.stop("SIGTERM");
  await server.insert("chat:1", 3, 4);
  const successor = await restart(t, server, "--allowed-origins", "*");
  await saw(["message", 4]);
  await successor.insert("chat:1", 5);
  await saw(["message", 5]);

  const happened = await page.evaluate(() => happened);
  assert.deepEqual(
    happened.filter(([kind]) => kind === "message").map(([, message]) => message),
    [1, 2, 3, 4, 5],
  );
  // A page has one task for each message, so it hears of the first history too.
  assert.deepEqual(
    happened.filter(([kind]) => kind !== "message"),
    [["info", "history_received"], ["info", "history_received"]],
  );
});

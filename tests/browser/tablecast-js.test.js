/** web/tablecast.js, our client, in a browser; the demo serves it. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { demo, Inbox, openPage, serve } from "./support.js";

/** A page with nothing on it but a connection, `cable`; what happens to it fills `page.cable`. */
async function connectedPage(t, server) {
  const page = await openPage(t, `${server.origin}/demo.json`); // of the server's origin, without a client
  page.cable = new Inbox("cable");
  page.inboxes = [page.cable];
  await page.exposeFunction("happened", (inbox, kind, value) => page.inboxes[inbox].push(kind, value));
  await page.evaluate(async () => {
    const { connect } = await import("/tablecast.js");
    globalThis.cable = connect(undefined, {
      status: (status) => happened(0, "status", status),
      frame: (text, direction) => happened(0, direction, JSON.parse(text)),
    });
    globalThis.subscriptions = [];
  });
  await page.cable.next("status", (status) => status === "live");
  return page;
}

/** A subscription in the page: its inbox, and how to end it. */
async function subscribe(page, identifier) {
  const inbox = new Inbox(`subscription ${JSON.stringify(identifier)}`);
  const number = page.inboxes.push(inbox) - 1;
  await page.evaluate(
    ([number, identifier]) => {
      const names = ["connected", "disconnected", "rejected", "received"];
      subscriptions[number] = cable.subscribe(
        identifier,
        Object.fromEntries(names.map((name) => [name, (value) => happened(number, name, value)])),
      );
    },
    [number, identifier],
  );
  const unsubscribe = () => page.evaluate((number) => subscriptions[number].unsubscribe(), number);
  return Object.assign(inbox, { unsubscribe });
}

const commands = (page, wanted) => page.cable.all("out").filter(({ command }) => command === wanted);

test("a subscription is by an identifier's object or by a stream's name", async (t) => {
  const server = await demo(t);
  const page = await connectedPage(t, server);

  const byObject = await subscribe(page, { channel: "ProgressChannel", job_id: "a" });
  const byName = await subscribe(page, "progress:b");

  assert.deepEqual(await byObject.next("connected"), { reconnected: false });
  assert.deepEqual(await byName.next("connected"), { reconnected: false });
  const values = [{ percent: 50 }, "text", 0, -1.5, null, false, [], "Zoë 🚀 \u2028 <b>"];
  await server.insert("progress:a", ...values, "the end of a");
  await server.insert("progress:b", ...values, "the end of b");
  await byObject.next("received", (message) => message === "the end of a");
  await byName.next("received", (message) => message === "the end of b");
  assert.deepEqual(byObject.all("received"), [...values, "the end of a"]);
  assert.deepEqual(byName.all("received"), [...values, "the end of b"]);
  assert.deepEqual(page.problems.all("exception"), []);
});

test("two subscriptions of one identifier share one on the wire, and each gets every message", async (t) => {
  const server = await demo(t);
  const page = await connectedPage(t, server);

  const first = await subscribe(page, "progress:a");
  await first.next("connected");
  const second = await subscribe(page, "progress:a");
  assert.deepEqual(await second.next("connected"), { reconnected: false });

  await server.insert("progress:a", 1, 2);
  for (const subscription of [first, second]) {
    await subscription.next("received", (message) => message === 2);
    assert.deepEqual(subscription.all("received"), [1, 2]);
    assert.equal(subscription.all("connected").length, 1);
  }
  assert.equal(commands(page, "subscribe").length, 1);
});

test("only the last of an identifier's subscriptions to go takes it off the wire", async (t) => {
  const server = await demo(t);
  const page = await connectedPage(t, server);
  const [first, second, other] = [
    await subscribe(page, "progress:a"),
    await subscribe(page, "progress:a"),
    await subscribe(page, "progress:b"),
  ];
  await Promise.all([first, second, other].map((subscription) => subscription.next("connected")));

  await first.unsubscribe();
  await server.insert("progress:a", "for the second");
  assert.equal(await second.next("received"), "for the second");
  assert.deepEqual(commands(page, "unsubscribe"), []);

  await second.unsubscribe();
  // Commands are carried out in order, so this one's confirmation comes after that.
  const later = await subscribe(page, "progress:c");
  await later.next("connected");
  await server.insert("progress:a", "to nobody");
  await server.insert("progress:b", "to somebody");
  await other.next("received");
  assert.deepEqual(first.all("received"), []);
  assert.deepEqual(second.all("received"), ["for the second"]);
  assert.deepEqual(page.cable.all("in").filter(({ message }) => message === "to nobody"), []);
});

test("an unsubscribe and a subscribe in one breath end subscribed", async (t) => {
  const server = await demo(t);
  const page = await connectedPage(t, server);
  const left = await subscribe(page, "progress:a");
  await left.next("connected");

  left.unsubscribe(); // not waited for
  const subscription = await subscribe(page, "progress:a");

  await subscription.next("connected");
  await server.insert("progress:a", 1, 2);
  await subscription.next("received", (message) => message === 2);
  assert.deepEqual(subscription.all("received"), [1, 2]);
  assert.deepEqual(left.all("received"), []);
});

test("a refused subscription hears so once, and may be tried again", async (t) => {
  const server = await demo(t);
  const page = await connectedPage(t, server);

  for (const identifier of ["secret:1", { channel: "NoSuchChannel" }, "secret:1"]) {
    const refused = await subscribe(page, identifier);
    await refused.next("rejected");
    assert.deepEqual(refused.all("connected"), []);
  }

  assert.equal(commands(page, "subscribe").length, 3);
  const allowed = await subscribe(page, "progress:a");
  await allowed.next("connected");
});

test("what was subscribed is so again after the server was killed and came back", async (t) => {
  const server = await demo(t);
  const page = await connectedPage(t, server);
  const [first, second] = [await subscribe(page, "progress:a"), await subscribe(page, "progress:b")];
  await Promise.all([first.next("connected"), second.next("connected")]);

  await server.stop("SIGKILL");

  for (const subscription of [first, second]) {
    assert.deepEqual(await subscription.next("disconnected"), { willReconnect: true });
  }
  await page.cable.next("status", (status) => status === "reconnecting");
  const successor = await serve(t, ["--public-streams", "progress:*"], { listen: server.host });
  for (const subscription of [first, second]) {
    assert.deepEqual(await subscription.next("connected"), { reconnected: true });
  }
  await successor.insert("progress:a", "a");
  await successor.insert("progress:b", "b");
  assert.equal(await first.next("received"), "a");
  assert.equal(await second.next("received"), "b");
});

test("a server that is told to stop sends its clients to its successor", async (t) => {
  const server = await demo(t);
  const page = await connectedPage(t, server);
  const subscription = await subscribe(page, "progress:a");
  await subscription.next("connected");

  const ended = server.stop("SIGTERM");

  assert.deepEqual(await subscription.next("disconnected"), { willReconnect: true });
  assert.equal(await ended, 0);
  const farewell = page.cable.all("in").filter(({ type }) => type === "disconnect");
  assert.deepEqual(farewell, [{ type: "disconnect", reason: "server_restart", reconnect: true }]);
  const successor = await serve(t, ["--public-streams", "progress:*"], { listen: server.host });
  assert.deepEqual(await subscription.next("connected"), { reconnected: true });
  await successor.insert("progress:a", "again");
  assert.equal(await subscription.next("received"), "again");
});

test("a closed cable stays closed", async (t) => {
  const server = await demo(t);
  const page = await connectedPage(t, server);
  const subscription = await subscribe(page, "progress:a");
  await subscription.next("connected");

  await page.evaluate(() => cable.close());

  await page.cable.next("status", (status) => status === "closed");
  assert.deepEqual(await subscription.next("disconnected"), { willReconnect: false });
  const late = await subscribe(page, "progress:b");
  assert.deepEqual(await late.next("disconnected"), { willReconnect: false });
});

/**
 * Clients whose connections are cut again and again while workers write: each message comes once.
 *
 * RESUME_FULL=1 runs it at length; RESUME_SEED=… repeats a run, as far as clocks let it.
 */

import assert from "node:assert/strict";
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";

import { connect } from "./anycable.js";
import { postgres } from "./postgres.js";
import { relay } from "./relay.js";
import { complete, freePort, openPage, ordinarily, ordinaryFolder, serve, start, TABLECAST } from "./support.js";
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

/** Debian's nginx with nothing but a proxy_pass; its host and port. */
async function nginx(t, upstream) {
  const [cwd, port] = [await ordinaryFolder(t), await freePort()];
  const folders = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"].map((name) => `${name}_temp_path ${name};`);
  const configuration = `
    daemon off;
    pid nginx.pid;
    error_log stderr warn;
    events {}
    http {
      access_log off;
      ${folders.join("\n")}
      server {
        listen 127.0.0.1:${port};
        location / { proxy_pass http://${upstream}; }
      }
    }`;
  await writeFile(join(cwd, "nginx.conf"), configuration);
  const program = start(t, ...ordinarily("/usr/sbin/nginx", ["-p", cwd, "-e", "stderr", "-c", "nginx.conf"]), { cwd });
  while (!(await fetch(`http://127.0.0.1:${port}/none`).catch(() => null))) {
    assert.equal(program.child.exitCode, null, String(program.output));
    await sleep(10);
  }
  return `127.0.0.1:${port}`;
}

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

/** Three servers, and a relay whose connections go to one after the other. */
async function cluster(t, db) {
  const servers = [await server(t, db), await server(t, db), await server(t, db)];
  const visits = servers.map(() => 0);
  let at = 0;
  const line = await relay(t, () => {
    at = (at + 1) % servers.length;
    visits[at] += 1;
    return servers[at].host;
  });
  const crash = async () => {
    const number = at; // where it went last
    const { host } = servers[number];
    await servers[number].stop("SIGKILL");
    servers[number] = await server(t, db, { listen: host });
  };
  return { line, visits, crash };
}

/** Restarts the database at each third of the messages. */
function restarts(db, messages) {
  let [count, restarting] = [0, null];
  const progress = (committed) => {
    if (count < 2 && committed >= (messages * (count + 1)) / 3) {
      count += 1;
      restarting = db.restart();
    }
  };
  return { progress, done: async () => (await restarting, assert.equal(count, 2)) };
}

test(`an AnyCable client that hops between three servers gets each message once (RESUME_SEED=${SEED})`, async (t) => {
  const [messages, cuts] = FULL ? [10_000, 300] : [2_000, 60];
  const chance = random(SEED);
  const db = await database(t);
  const { line, visits } = await cluster(t, db);
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
  for (const stream of STREAMS) await follow(stream).ensureSubscribed();
  const workload = new Workload(db, STREAMS, chance.fork());
  await workload.mark(0);
  // From then on it has positions.
  while (STREAMS.some((stream) => received.get(stream).length === 0)) await sleep(5);

  const cut = drops(cuts, messages, () => line.drop(), chance.fork());
  const outages = restarts(db, messages);
  await workload.run(WRITERS, (committed) => committed >= messages, (committed) => {
    cut(committed);
    outages.progress(committed);
  });
  await outages.done();
  await sleep(100); // the last cut
  await workload.mark(1);
  for (const stream of STREAMS) {
    for (let looks = 0; !received.get(stream).some(Workload.isEnd); looks++) {
      assert.ok(looks < 3_000, `${stream} has not come to its end: ${cable.wire}`);
      await sleep(10);
    }
  }

  const truth = await workload.truth();
  const written = [...truth.values()].flat().length;
  t.diagnostic(
    `${written} messages, ${workload.rolledBack.size} rolled back, ${cable.wire.all("open").length} connections ` +
      `(${visits}), 2 restarts of the database, ${closes.length} channels closed, ` +
      `${infos.length} histories`,
  );
  for (const stream of STREAMS) assert.deepEqual(compare(truth.get(stream), received.get(stream)), NOTHING, stream);
  assert.equal(infos.filter((type) => type !== "history_received").length, 0);
  assert.ok(visits.every((count) => count > cuts / 6), String(visits));
  assert.ok(cable.wire.all("open").length > cuts);
});

/** A script that deals with what a watch prints, and begins the next watch behind the last line that it had. */
class Script {
  received = new Map(STREAMS.map((stream) => [stream, []]));
  starts = 0;

  constructor(t, url) {
    Object.assign(this, { t, url });
  }

  begin() {
    const from = this.position ? ["--from", this.position] : [];
    const options = ["--url", this.url, "--positions", ...from];
    this.watch = start(this.t, TABLECAST, ["watch", ...options, ...STREAMS]);
    this.starts += 1;
  }

  /** In the midst of whatever it does. */
  async kill() {
    const { child, output } = this.watch;
    assert.equal(child.exitCode, null, `it has ended by itself: ${output}`);
    await this.watch.kill();
    for (const line of output.all("stdout")) {
      if (!line.endsWith("}")) continue; // the last one, of which half was out
      const { stream, data, position } = JSON.parse(line);
      this.received.get(stream).push(data);
      this.position = position;
    }
  }

  /** The n-th mark of each stream has come. */
  async marked(n) {
    for (const stream of STREAMS) {
      const begins = JSON.stringify({ stream, data: { writer: -1, n } }).slice(0, -1);
      await this.watch.output.next("stdout", (line) => line.startsWith(begins));
    }
  }
}

test(`a script that begins its watch again where it was gets each message once (RESUME_SEED=${SEED})`, async (t) => {
  const [messages, drops] = FULL ? [10_000, 30] : [1_000, 6];
  const chance = random(SEED);
  const db = await database(t);
  const { line, visits, crash } = await cluster(t, db);
  const script = new Script(t, line.cable);
  script.begin();
  await script.watch.output.next("stderr", (line) => line.includes("subscribed"));
  const workload = new Workload(db, STREAMS, chance.fork());
  await workload.mark(0);
  await script.marked(0);

  // Beside the watch itself: its line, its server, and the database.
  const ways = [() => {}, () => line.drop(), crash];
  const outages = restarts(db, messages);
  let [dropped, committed] = [0, 0];
  const enough = (count) => dropped === drops && count >= messages;
  const working = workload.run(WRITERS, enough, (count) => {
    committed = count;
    outages.progress(count);
  });
  for (; dropped < drops; dropped++) {
    while (committed < ((dropped + 1) * messages) / (drops + 1)) await sleep(5);
    await ways[dropped % ways.length]();
    await sleep(chance.below(600)); // it comes back by itself, or is about to
    await script.kill();
    script.begin();
  }
  await working;
  await outages.done();
  await workload.mark(1);
  await script.marked(1);
  await script.kill();

  const truth = await workload.truth();
  const written = [...truth.values()].flat().length;
  t.diagnostic(
    `${written} messages, ${workload.rolledBack.size} rolled back, ${script.starts} watches, ` +
      `${visits.reduce((a, b) => a + b)} connections (${visits}), 2 restarts of the database`,
  );
  for (const stream of STREAMS) assert.deepEqual(compare(truth.get(stream), script.received.get(stream)), NOTHING, stream);
  assert.ok(visits.every((count) => count > drops / 6), String(visits));
});

/** A page with an EventSource; `opens`, `resets` and `received` are its globals. */
async function eventSource(t, origin) {
  const page = await openPage(t, `${origin}/none`);
  await page.evaluate((streams) => {
    Object.assign(globalThis, { opens: 0, resets: [], received: [] });
    globalThis.source = new EventSource(`/events?${streams.map((stream) => `stream=${stream}`).join("&")}`);
    source.onopen = () => opens++;
    source.onmessage = ({ data }) => received.push(JSON.parse(data));
    source.addEventListener("reset", ({ data }) => resets.push(data));
  }, STREAMS);
  return Object.assign(page, {
    opened: (times) => page.waitForFunction((times) => opens >= times, times),
    isOpen: () => page.waitForFunction(() => source.readyState === EventSource.OPEN),
  });
}

/** All messages of both streams have come to the page, once and in each writer's order. */
async function assertComplete(t, page, workload) {
  await workload.mark(1);
  await page.waitForFunction(
    (streams) => received.filter(({ writer, n }) => writer === -1 && n === 1).length >= streams,
    STREAMS.length,
  );
  const [received, opens, resets] = await page.evaluate(() => [received, opens, resets]);
  const truth = [...(await workload.truth()).values()].flat();
  t.diagnostic(`${truth.length} messages, ${opens} connections`);
  const marks = received.filter(({ writer }) => writer === -1).length;
  assert.equal(marks, 2 * STREAMS.length);
  const workers = (messages) => messages.filter(({ writer }) => writer !== -1);
  assert.deepEqual(compare(workers(truth), workers(received)), NOTHING);
  assert.deepEqual(resets, []);
  return opens;
}

test(`an EventSource in Chromium gets each message once while its server is restarted (RESUME_SEED=${SEED})`, async (t) => {
  const restarts = FULL ? 30 : 4;
  const chance = random(SEED);
  const db = await database(t);
  let one = await server(t, db);
  const page = await eventSource(t, one.origin);
  await page.opened(1);
  const workload = new Workload(db, STREAMS, chance.fork());
  await workload.mark(0);

  let done = 0;
  const working = workload.run(WRITERS, () => done === restarts);
  for (; done < restarts; done++) {
    await sleep(chance.below(500));
    await one.stop(chance() < 0.5 ? "SIGKILL" : "SIGTERM");
    one = await server(t, db, { listen: one.host });
    await page.opened(done + 2);
  }
  await working;

  await assertComplete(t, page, workload);
});

test(`an EventSource in Chromium behind nginx gets each message once, however often it is cut off (RESUME_SEED=${SEED})`, async (t) => {
  const cuts = FULL ? 30 : 4;
  const chance = random(SEED);
  const db = await database(t);
  const one = await server(t, db);
  const proxy = await nginx(t, one.host);
  const line = await relay(t, proxy);
  const page = await eventSource(t, `http://${line.host}`);
  await page.opened(1);
  const workload = new Workload(db, STREAMS, chance.fork());
  await workload.mark(0);

  let done = 0;
  const working = workload.run(WRITERS, () => done === cuts);
  for (; done < cuts; done++) {
    await sleep(chance.below(500));
    line.drop();
    await page.opened(done + 2);
  }
  await working;

  await assertComplete(t, page, workload);
  // As it comes, and not when some buffer is full.
  await workload.mark(2);
  await page.waitForFunction(
    (streams) => received.filter(({ n, writer }) => writer === -1 && n === 2).length === streams,
    STREAMS.length,
  );
});

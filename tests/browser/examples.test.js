/** examples/: the workers as they are, seen through examples/html-page. */

import assert from "node:assert/strict";
import { createReadStream } from "node:fs";
import { writeFile } from "node:fs/promises";
import { createServer } from "node:http";
import { join } from "node:path";
import { test } from "node:test";

import { complete, defer, folder, openPage, serve, sqlite3, start } from "./support.js";

const EXAMPLES = join(import.meta.dirname, "../../examples");
const PYTHON_WORKER = join(EXAMPLES, "python-worker/worker.py");
const SHELL_WORKER = join(EXAMPLES, "shell-worker/worker.sh");
const CLIENT = "/node_modules/@rails/actioncable/app/assets/javascripts/actioncable.esm.js";

/** The page's own server, of another origin than the cable; its origin. */
async function servePage(t) {
  const files = {
    "/": ["text/html", join(EXAMPLES, "html-page/index.html")],
    [CLIENT]: ["text/javascript", join(import.meta.dirname, CLIENT)],
  };
  const server = createServer((request, response) => {
    const [type, path] = files[new URL(request.url, "http://page").pathname] ?? [];
    if (!path) return response.writeHead(404).end();
    response.writeHead(200, { "content-type": type });
    createReadStream(path).pipe(response);
  });
  await new Promise((listening) => server.listen(0, "127.0.0.1", listening));
  defer(t, () => {
    server.closeAllConnections();
    server.close();
  });
  return `http://127.0.0.1:${server.address().port}`;
}

const RULE = ["--public-channel", "ProgressChannel=progress:{job_id}"];

/** A cable and a page that waits for a job's news. */
async function waitingPage(t, job) {
  const origin = await servePage(t);
  const server = await serve(t, [...RULE, "--allowed-origins", origin]);
  const page = await openPage(t, `${origin}/?job=${job}&cable=${server.cable}`);
  await says(page, "status", "waiting");
  await page.evaluate(() => {
    globalThis.seen = []; // { percent, message } at each change
    const [bar, message] = ["bar", "message"].map((id) => document.getElementById(id));
    const look = () => seen.push({ percent: bar.position < 0 ? null : bar.value, message: message.textContent });
    new MutationObserver(look).observe(document.body, { attributes: true, childList: true, subtree: true });
  });
  return { server, page };
}

const says = (page, id, text) => page.locator(`#${id}`, { hasText: text }).waitFor();

/** What the bar has shown, without repetitions. */
async function places(page) {
  const seen = await page.evaluate(() => seen.map(({ percent }) => percent));
  return seen.filter((percent, index) => percent !== seen[index - 1]);
}

/** Whether the bar went up to its end by small steps. */
function assertMoved(places, steps) {
  assert.ok(places.length >= steps, `only ${places}`);
  assert.deepEqual(places, [...places].sort((a, b) => a - b));
  assert.equal(places.at(-1), 100);
}

async function numbers(t, count) {
  const path = join(await folder(t), "numbers.txt");
  await writeFile(path, Array.from({ length: count }, (_, index) => `${index + 1}\n`).join(""));
  return path;
}

/** Files of awkward names. */
async function files(t) {
  const cwd = await folder(t);
  const names = ["plain.txt", "it's.txt", 'say "hello".txt', "back\\slash.txt", "$(date) `id` %s.txt", "Zoë 進捗.txt", "-n"];
  for (const name of names) await writeFile(join(cwd, name), name);
  return { cwd, names };
}

test("the Python worker moves the page's bar to its end", async (t) => {
  const { server, page } = await waitingPage(t, "42");

  const worker = start(t, "python3", [PYTHON_WORKER, "42", await numbers(t, 50), "0.02"], {
    env: { TABLECAST_DB: server.database },
  });

  await says(page, "status", "working");
  await says(page, "status", "completed");
  assert.equal(await worker.ended(), 0);
  assertMoved(await places(page), 25);
  assert.equal(String(page.problems), "nothing");
});

for (const [way, environment] of [
  ["the sqlite3 shell", (server) => ({ TABLECAST_DB: server.database })],
  ["curl", (server) => ({ TABLECAST_URL: `http://${server.internal}`, TABLECAST_DB: "/nowhere" })],
]) {
  test(`the shell worker moves the page's bar through ${way}, whatever its files are called`, async (t) => {
    const { server, page } = await waitingPage(t, "nightly");
    const { cwd, names } = await files(t);

    const worker = start(t, SHELL_WORKER, ["nightly", ...names], {
      cwd,
      env: { ...environment(server), PAUSE: "0.1" },
    });

    await says(page, "status", "completed");
    assert.equal(await worker.ended(), 0);
    assertMoved(await places(page), names.length);
    const messages = await page.evaluate(() => seen.map(({ message }) => message));
    assert.deepEqual(names.filter((name) => !messages.includes(name)), []);
    assert.deepEqual(worker.output.all("stderr"), []);
    assert.equal(String(page.problems), "nothing");
  });
}

test("a job of the Python worker that fails says why on the page, and fails", async (t) => {
  const { server, page } = await waitingPage(t, "42");
  const path = join(await folder(t), "numbers.txt");
  await writeFile(path, "1\n2\nthree\n4\n");

  const { code } = await complete(t, "python3", [PYTHON_WORKER, "42", path], {
    env: { TABLECAST_DB: server.database },
  });

  assert.equal(code, 1);
  await says(page, "status", "failed");
  await says(page, "message", "'three'");
  assert.equal(await page.locator("#bar").evaluate((bar) => bar.value), 50);
});

test("a job of the shell worker that fails says so on the page, and fails", async (t) => {
  const { server, page } = await waitingPage(t, "nightly");
  const { cwd } = await files(t);

  const { code } = await complete(t, SHELL_WORKER, ["nightly", "plain.txt", "missing.txt", "it's.txt"], {
    cwd,
    env: { TABLECAST_DB: server.database, PAUSE: "0" },
  });

  assert.equal(code, 1);
  await says(page, "status", "failed");
  await says(page, "message", "exit 1 at missing.txt");
});

for (const signal of ["SIGINT", "SIGTERM"]) {
  test(`a shell worker that gets ${signal} says that it failed`, async (t) => {
    const { server, page } = await waitingPage(t, "nightly");
    const { cwd, names } = await files(t);
    const worker = start(t, SHELL_WORKER, ["nightly", ...names], {
      cwd,
      env: { TABLECAST_DB: server.database },
    });
    await says(page, "status", "working");

    worker.signal(signal);

    await says(page, "status", "failed");
    assert.equal(await worker.ended(), signal === "SIGINT" ? 130 : 143);
  });
}

test("a Python worker that gets SIGINT says that it failed", async (t) => {
  const { server, page } = await waitingPage(t, "42");
  const worker = start(t, "python3", [PYTHON_WORKER, "42", await numbers(t, 1_000)], {
    env: { TABLECAST_DB: server.database },
  });
  await says(page, "status", "working");

  worker.signal("SIGINT");

  await says(page, "status", "failed");
  assert.notEqual(await worker.ended(), 0);
});

test("workers whose messages go nowhere finish their jobs all the same", async (t) => {
  const { cwd } = await files(t);
  const numbersFile = await numbers(t, 3);
  const nowhere = { TABLECAST_DB: join(cwd, "nowhere.db"), PAUSE: "0" };

  const python = await complete(t, "python3", [PYTHON_WORKER, "42", numbersFile], { cwd, env: nowhere });
  const shell = await complete(t, SHELL_WORKER, ["42", "plain.txt"], { cwd, env: nowhere });
  const curl = await complete(t, SHELL_WORKER, ["42", "plain.txt"], {
    cwd,
    env: { TABLECAST_URL: "http://127.0.0.1:9", PAUSE: "0" },
  });

  for (const { code, stderr } of [python, shell, curl]) {
    assert.equal(code, 0, stderr);
    assert.match(stderr, /not published to progress:42/);
  }
  await assert.rejects(sqlite3(t, `file:${nowhere.TABLECAST_DB}?mode=ro`, "SELECT 1 FROM sqlite_master;"));
});

test("the Python worker publishes some hundred messages of a job of many thousand lines", async (t) => {
  const server = await serve(t, []);

  const { code } = await complete(t, "python3", [PYTHON_WORKER, "42", await numbers(t, 20_000), "0"], {
    env: { TABLECAST_DB: server.database },
  });

  assert.equal(code, 0);
  const rows = Number(await sqlite3(t, server.database, "SELECT count(*) FROM solid_cable_messages WHERE id > 0;"));
  assert.ok(rows >= 102 && rows < 250, `${rows}`);
});

test("the page says when it isn't allowed, and which of two jobs it follows", async (t) => {
  const origin = await servePage(t);
  const closed = await serve(t, ["--allowed-origins", origin]);
  const page = await openPage(t, `${origin}/?job=1&cable=${closed.cable}`);
  await says(page, "status", "not allowed");

  const { server, page: other } = await waitingPage(t, "2");
  await server.insert("progress:1", { status: "working", percent: 10, message: "of another job" });
  await server.insert("progress:2", { status: "working", percent: 20, message: "of this one" });
  await says(other, "message", "of this one");
  assert.deepEqual(await places(other), [20]);
});

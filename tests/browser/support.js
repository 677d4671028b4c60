/**
 * The tests' vocabulary. Whatever a test starts through here ends with the test, however
 * that ends; whatever it waits for has an end too.
 */

import { spawn } from "node:child_process";
import { chown, mkdtemp, rm } from "node:fs/promises";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { createInterface } from "node:readline";
import { after } from "node:test";

import { chromium } from "playwright-core";

/** What the slowest event may take: Rails' own client comes back within 18 s. */
const PATIENCE = 30_000; // ms

export const TABLECAST = resolve(process.env.TABLECAST_BIN ?? join(import.meta.dirname, "../../target/debug/tablecast"));

// --- What happened, and waiting for it ---------------------------------------------------

/** Events as they came, each of a kind and with a value. */
export class Inbox {
  #events = []; // { kind, value, taken }
  #arrived = new Set();
  #closed = false;

  constructor(name) {
    this.name = name;
  }

  push(kind, value) {
    this.#events.push({ kind, value, taken: false });
    for (const look of [...this.#arrived]) look();
  }

  /** Nothing comes any more; who waits has waited in vain. */
  close() {
    this.#closed = true;
    for (const look of [...this.#arrived]) look();
  }

  /** The value of the next event of a kind that no `next` has had yet. */
  async next(kind, wanted = () => true) {
    let look;
    const complaint = () => `${this.name}: no ${kind}, only\n  ${this}`;
    const found = new Promise((resolve, reject) => {
      look = () => {
        const event = this.#events.find(
          (event) => event.kind === kind && !event.taken && wanted(event.value),
        );
        if (event) {
          event.taken = true;
          this.#arrived.delete(look);
          resolve(event.value);
        } else if (this.#closed) {
          reject(new Error(complaint()));
        }
      };
      this.#arrived.add(look);
      look();
    });
    try {
      return await within(found, complaint);
    } finally {
      this.#arrived.delete(look);
    }
  }

  /** The values of all events of a kind so far. */
  all(kind) {
    return this.#events.filter((event) => event.kind === kind).map((event) => event.value);
  }

  toString() {
    const lines = this.#events.map(({ kind, value }) => `${kind} ${JSON.stringify(value)}`);
    return lines.length ? lines.slice(-20).join("\n  ") : "nothing";
  }
}

/** A promise, but not for ever. */
async function within(promise, complaint) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${complaint()} (after ${PATIENCE} ms)`)), PATIENCE);
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}

// --- What must not outlive its test ------------------------------------------------------

const undoings = new WeakMap(); // test -> functions

/** Undone when the test ends, the latest first. */
export function defer(t, undo) {
  if (!undoings.has(t)) {
    const stack = [];
    undoings.set(t, stack);
    t.after(async () => {
      const errors = [];
      while (stack.length) await (async () => stack.pop()())().catch((error) => errors.push(error));
      if (errors.length) throw new AggregateError(errors, `cleaning up: ${errors.join("; ")}`);
    });
  }
  undoings.get(t).push(undo);
}

export async function folder(t) {
  const path = await mkdtemp(join(tmpdir(), "tablecast-test-"));
  defer(t, () => rm(path, { recursive: true, force: true }));
  return path;
}

/** A folder for programs that refuse to run as root, and a command for one: [file, args]. */
export async function ordinaryFolder(t) {
  const path = await folder(t);
  if (isRoot) await chown(path, NOBODY, NOBODY);
  return path;
}

export function ordinarily(file, args) {
  const nobody = [`--reuid=${NOBODY}`, `--regid=${NOBODY}`, "--clear-groups"];
  return isRoot ? ["setpriv", [...nobody, file, ...args]] : [file, args];
}

const isRoot = process.getuid() === 0;
const NOBODY = 65534;

/**
 * One that is free, and stays so while its server is down: outgoing connections and listeners that leave the
 * choice to the system have higher ones.
 */
export async function freePort() {
  for (;;) {
    const port = 10_000 + ((process.pid * 101 + ports++) % 20_000);
    const isTaken = await new Promise((resolve) => {
      const socket = connect(port, "127.0.0.1", () => (socket.destroy(), resolve(true)));
      socket.on("error", () => resolve(false));
    });
    if (!isTaken) return port;
  }
}

let ports = 0;

// --- Programs ----------------------------------------------------------------------------

const groups = new Set(); // process groups that may be running

/** For a run that is broken off, of which no test hears. */
process.on("exit", () => groups.forEach((group) => signalGroup(group, "SIGKILL")));
for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"]) process.on(signal, () => process.exit(1));

function signalGroup(group, signal) {
  try {
    process.kill(-group, signal);
  } catch (error) {
    if (error.code !== "ESRCH") throw error;
  }
}

/** A program in a process group of its own. */
class Program {
  output = new Inbox(); // stdout and stderr, a line an event

  constructor(file, args, { cwd, env = {}, input = "" } = {}) {
    this.folder = cwd;
    this.output.name = [file, ...args].join(" ");
    this.child = spawn(file, args, { cwd, env: { ...environment(), ...env }, detached: true });
    this.group = this.child.pid;
    if (this.group) groups.add(this.group);
    for (const name of ["stdout", "stderr"]) {
      createInterface({ input: this.child[name] }).on("line", (line) => this.output.push(name, line));
    }
    this.child.stdin.on("error", () => {}); // it may end before it has read all
    this.child.stdin.end(input);
    this.end = new Promise((resolve) => {
      this.child.on("error", (error) => resolve(error.message)); // it never began
      this.child.on("close", (code, signal) => resolve(code ?? signal));
    });
    this.end.then(() => this.output.close());
  }

  /** The next line on its standard output that looks so. */
  line(pattern) {
    return this.output.next("stdout", (line) => pattern.test(line));
  }

  /** Its exit status, or the signal that ended it. */
  ended() {
    return within(this.end, () => `${this.output.name} runs on\n  ${this.output}`);
  }

  signal(signal) {
    signalGroup(this.group, signal);
  }

  /** With all its children. */
  async kill() {
    if (!this.group) return;
    this.signal("SIGKILL");
    await this.ended();
    groups.delete(this.group);
  }
}

/** Nobody's settings but the test's own. */
function environment() {
  const foreign = /^(TABLECAST_|DATABASE_URL$|CABLE_PREFIX$|SECRET_KEY_BASE$|RUST_LOG$)/;
  return Object.fromEntries(Object.entries(process.env).filter(([name]) => !foreign.test(name)));
}

export function start(t, file, args, options) {
  const program = new Program(file, args, options);
  defer(t, () => program.kill());
  return program;
}

/** Runs a program to its end: { code, stdout, stderr }. */
export async function complete(t, file, args, options) {
  const program = start(t, file, args, options);
  const code = await program.ended();
  const [stdout, stderr] = ["stdout", "stderr"].map((name) => program.output.all(name).join("\n"));
  return { code, stdout, stderr };
}

/** Statements through the sqlite3 shell, as a worker might. */
export async function sqlite3(t, database, sql) {
  const { code, stdout, stderr } = await complete(
    t, "sqlite3", ["-bail", "-batch", "-cmd", ".timeout 5000", database], { input: sql },
  );
  if (code !== 0) throw new Error(`sqlite3: ${stderr}`);
  return stdout;
}

// --- Servers -----------------------------------------------------------------------------

class Server {
  constructor(t, program, addresses) {
    Object.assign(this, { t, program, ...addresses }); // host, internal, database
    this.folder = program.folder;
    this.cable = `ws://${this.host}/cable`;
    this.origin = `http://${this.host}`;
  }

  /** One transaction for all messages. */
  async insert(stream, ...messages) {
    const quote = (text) => `'${text.replaceAll("'", "''")}'`;
    const rows = messages.map((message) => `(${quote(stream)}, ${quote(JSON.stringify(message))})`);
    await sqlite3(
      this.t, this.database, `INSERT INTO tablecast_publish (stream, data) VALUES ${rows.join(", ")};`,
    );
  }

  broadcast(body) {
    return fetch(`http://${this.internal}/broadcast`, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify(body),
      signal: AbortSignal.timeout(PATIENCE),
    });
  }

  /** As an operator (SIGTERM) or a crash (SIGKILL) would; resolves when it's gone. */
  async stop(signal) {
    this.program.signal(signal);
    return this.program.ended();
  }
}

/** `tablecast serve`, in a fresh folder if no other is named, on a file there if no other database is. */
export async function serve(t, args, { cwd, listen, url = "sqlite:cable.db" } = {}) {
  cwd ??= await folder(t);
  listen ??= `127.0.0.1:${await freePort()}`;
  const program = start(
    t,
    TABLECAST,
    ["serve", "--database-url", url, "--listen", listen, "--internal-listen", "127.0.0.1:0", ...args],
    { cwd },
  );
  const line = await program.line(/^listening on ws:/);
  const [, host, internal] = /ws:\/\/([^/]+)\/cable\b.*http:\/\/([\d.:]+)/.exec(line);
  return new Server(t, program, { host, internal, database: join(cwd, "cable.db") });
}

/** `tablecast demo`; its database is where its page says. */
export async function demo(t) {
  const program = start(t, TABLECAST, ["demo", "--listen", `127.0.0.1:${await freePort()}`, "--internal-listen", "127.0.0.1:0"], {
    env: { TMPDIR: await folder(t) }, // a demo that is killed leaves its own behind
  });
  const [, host] = /http:\/\/([^/]+)\//.exec(await program.line(/^open http:/));
  const response = await fetch(`http://${host}/demo.json`, { signal: AbortSignal.timeout(PATIENCE) });
  const { database } = await response.json();
  return new Server(t, program, { host, database });
}

/** Resolves once a metric of the server is at least so much. */
export async function metric(server, name, least) {
  while ((await value(server, name)) < least) await new Promise((resolve) => setTimeout(resolve, 5));
}

/** A metric of the server; 0 is what it hasn't counted yet. */
export async function value(server, name) {
  const metrics = await (await fetch(`http://${server.internal}/metrics`)).text();
  const line = metrics.split("\n").find((line) => line.startsWith(`${name} `));
  return Number(line?.split(" ").at(-1) ?? 0);
}

// --- Browser -----------------------------------------------------------------------------

const CHROMIUM = {
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  timeout: PATIENCE,
  args: [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
  ],
};

let browser; // one a file

after(async () => (await browser)?.close());

/** A page of a browser that knows nothing yet; `page.problems` are an Inbox's events. */
export async function openPage(t, url, options) {
  browser ??= chromium.launch(CHROMIUM);
  const context = await (await browser).newContext(options);
  defer(t, () => context.close());
  const page = await context.newPage();
  page.setDefaultTimeout(PATIENCE);
  page.problems = new Inbox(`problems of ${url}`);
  page.on("pageerror", (error) => page.problems.push("exception", error.message));
  page.on("console", (message) => {
    if (["error", "warning"].includes(message.type())) page.problems.push(message.type(), message.text());
  });
  await page.addInitScript(() => {
    document.addEventListener("securitypolicyviolation", ({ violatedDirective, blockedURI }) => {
      console.error(`Content-Security-Policy: ${violatedDirective} ${blockedURI}`);
    });
  });
  await page.goto(url);
  return page;
}

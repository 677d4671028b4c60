import { connect } from "./tablecast.js";

// Messages are untrusted: they go into the page as textContent only, and links are vetted.

const JOBS = {
  import: "Import customers",
  thumbnails: "Make thumbnails",
  report: "Monthly report",
  video: "Transcode video",
  mailing: "Send newsletter",
};

const ENDED = new Set(["completed", "failed", "cancelled"]);
const STATUSES = new Set(["queued", "working", "retrying", ...ENDED]);
const QUIET = 5_000; // ms without a message after which a row says so
const BY_HAND = 5_000; // ms for which a message without a status stays marked on the bar
const HAND = "published by hand";

const byId = (id) => document.getElementById(id);

// --- One job: what is known about it ---------------------------------------------------

function newJob(id, title) {
  return {
    id,
    title,
    status: "unknown",
    shown: 0, // percent on the bar; null: working, but nobody knows how far
    message: "no message yet",
    error: "",
    resultURL: null,
    retryAt: 0,
    attempt: 1,
    run: null, // the worker's own account: { status, attempt, best }
    byHand: null, // { percent, until }
    heardAt: 0,
  };
}

function receive(job, data) {
  job.heardAt = Date.now();
  const message =
    typeof data === "string" ? { message: data }
    : typeof data === "number" ? { percent: data }
    : data;
  if (message === null || typeof message !== "object" || Array.isArray(message)) return;

  if (text(message.title)) job.title = message.title;
  const percent = percentOf(message);
  if (STATUSES.has(message.status)) receiveFromWorker(job, message, percent);
  else receiveByHand(job, message, percent);
}

/** Worker's messages are complete: each replaces all that the one before said. */
function receiveFromWorker(job, message, percent) {
  const { status } = message;
  const attempt = Number.isInteger(message.attempt) ? message.attempt : 1;
  const { run } = job;

  // Messages may be late or coarse, so the bar never goes back, except in a new run or attempt.
  const starts = status === "queued" || status === "working";
  const isNew =
    !run ||
    status === "queued" ||
    (starts && (run.attempt !== attempt || run.status === "retrying")) ||
    (!ENDED.has(status) && ENDED.has(run.status));
  const best = isNew ? (percent ?? 0) : Math.max(run.best, percent ?? 0);
  job.run = { status, attempt, best };

  job.status = status;
  job.shown =
    status === "completed" ? 100
    : status === "working" && percent === null ? null
    : best;
  job.attempt = attempt;
  job.message = text(message.message);
  job.error = status === "completed" ? "" : text(message.error);
  job.resultURL = status === "completed" ? safeURL(message.result?.url) : null;
  job.retryAt =
    status === "retrying" && Number.isFinite(message.retry_in)
      ? job.heardAt + message.retry_in * 1_000
      : 0;
}

/**
 * Somebody typed an INSERT: show what it says, at once and even if the bar must go back,
 * but leave the worker's account alone, so that its next message puts things right.
 */
function receiveByHand(job, message, percent) {
  job.status = "working";
  job.message = text(message.message) || (percent === null ? "" : HAND);
  job.error = text(message.error);
  job.resultURL = null;
  job.retryAt = 0;
  if (Number.isInteger(message.attempt)) job.attempt = message.attempt;
  if (percent === null) return;
  job.shown = percent;
  job.byHand = { percent, until: job.heardAt + BY_HAND };
}

function percentOf({ percent, at, total }) {
  if (!Number.isFinite(percent)) {
    if (!Number.isFinite(at) || !(total > 0)) return null;
    percent = (100 * at) / total;
  }
  return Math.min(100, Math.max(0, percent));
}

function text(value) {
  return typeof value === "string" || typeof value === "number" ? String(value) : "";
}

/** No javascript: links, whatever a message says. */
function safeURL(value) {
  if (typeof value !== "string") return null;
  try {
    const url = new URL(value, location.href);
    return /^https?:$/.test(url.protocol) ? url.href : null;
  } catch {
    return null;
  }
}

// --- One job: its row -------------------------------------------------------------------

function newRow(job) {
  const element = byId("job").content.firstElementChild.cloneNode(true);
  const part = (name) => element.querySelector(`.${name}`);
  const row = { element };
  for (const name of [
    "title", "stream", "chip", "attempt", "bar", "fill", "mark",
    "percent", "text", "error", "result", "note",
  ]) row[name] = part(name);
  row.stream.textContent = `progress:${job.id}`;
  row.title.id = `title-${job.id}`;
  row.bar.setAttribute("aria-labelledby", row.title.id);
  byId("jobs").append(element);
  return row;
}

function drawJob(job, row) {
  const now = Date.now();
  const silence = job.heardAt ? now - job.heardAt : 0;
  const ended = ENDED.has(job.status);
  const percent = job.shown === null ? null : Math.floor(job.shown); // 99.9 isn't done

  if (job.byHand && job.byHand.until < now) job.byHand = null;

  setData(row.element, "status", job.status);
  setData(row.element, "quiet", silence > QUIET && !ended && job.retryAt <= now ? "yes" : "no");
  setText(row.title, job.title);
  setText(row.chip, job.status === "unknown" ? "waiting" : job.status);
  setText(row.attempt, job.attempt > 1 ? `attempt ${job.attempt}` : "");
  setText(row.percent, percent === null ? "–" : `${percent}%`);
  setText(row.text, job.message);
  setText(row.error, job.error);
  setText(row.note, noteOn(job, now, silence));
  if (row.error.title !== job.error) row.error.title = job.error; // long ones are cut short
  // A row that has had an error keeps room for the next: rows must not jump in every run.
  if (job.error) setData(row.element, "erred", "yes");

  if (row.result.hidden !== !job.resultURL) row.result.hidden = !job.resultURL;
  if (job.resultURL && row.result.href !== job.resultURL) row.result.href = job.resultURL;

  setData(row.bar, "known", percent === null ? "no" : "yes");
  if (percent === null) row.bar.removeAttribute("aria-valuenow");
  else if (row.bar.ariaValueNow !== String(percent)) row.bar.ariaValueNow = String(percent);
  // Slid in rather than scaled, which would distort the hatching.
  const missing = percent === null ? 0 : Math.round(10 * (100 - job.shown)) / 10;
  setStyle(row.fill, "transform", percent === null ? "" : `translateX(-${missing}%)`);
  // Slid out entirely, it would still show a hair where bars begin between two pixels.
  setStyle(row.fill, "visibility", percent !== null && job.shown === 0 ? "hidden" : "");

  if (row.mark.hidden !== !job.byHand) row.mark.hidden = !job.byHand;
  if (job.byHand) setStyle(row.mark, "left", `${job.byHand.percent}%`);
}

/** What the clock has to say about a job, the most urgent thing first. */
function noteOn(job, now, silence) {
  if (job.retryAt > now) return `retrying in ${Math.ceil((job.retryAt - now) / 1_000)} s`;
  if (silence > QUIET) return `last heard ${duration(silence)} ago`;
  if (job.byHand && job.message !== HAND) return `by hand: ${Math.floor(job.byHand.percent)}%`;
  return "";
}

function duration(ms) {
  const seconds = Math.floor(ms / 1_000);
  if (seconds < 100) return `${seconds} s`;
  const minutes = Math.floor(seconds / 60);
  return minutes < 100 ? `${minutes} min` : `${Math.floor(minutes / 60)} h`;
}

// Writing what is there already would cost style and layout work all the same.
function setText(element, value) {
  if (element.textContent !== value) element.textContent = value;
}
function setData(element, key, value) {
  if (element.dataset[key] !== value) element.dataset[key] = value;
}
function setStyle(element, property, value) {
  if (element.style[property] !== value) element.style[property] = value;
}

// --- Drawing: at most once a frame, and only what has news ------------------------------

const pending = new Set(); // draw functions

function redraw(draw) {
  if (pending.size === 0) requestAnimationFrame(drawPending);
  pending.add(draw);
}

function drawPending() {
  const draws = [...pending];
  pending.clear();
  for (const draw of draws) draw();
}

// --- Raw messages -----------------------------------------------------------------------

const KEPT = 200;
const LONGEST = 2_000; // characters shown of a frame

const raw = { frames: [], total: 0, drawn: 0, paused: false };
const received = { count: 0, perSecond: 0 };

function recordFrame(content, direction) {
  raw.total++;
  raw.frames.push({ content, direction, time: new Date() });
  if (raw.frames.length > KEPT) raw.frames.shift();
  if (direction === "in") received.count++;
  if (byId("raw").open) redraw(drawRaw);
}

function drawRaw() {
  if (!byId("raw").open) return;
  const fresh = Math.min(raw.total - raw.drawn, raw.frames.length);
  if (raw.paused) {
    setText(byId("raw-count"), `paused, ${count(raw.total - raw.drawn)} more since`);
    return;
  }
  raw.drawn = raw.total;
  const list = byId("frames");
  const items = fresh ? raw.frames.slice(-fresh).reverse().map(frameItem) : [];
  list.prepend(...items);
  while (list.childElementCount > KEPT) list.lastElementChild.remove();
  setText(byId("raw-count"), `newest first, ${raw.frames.length} of ${count(raw.total)}`);
}

function frameItem({ content, direction, time }) {
  const item = document.createElement("li");
  item.className = direction;
  if (content.startsWith('{"type":"ping"')) item.className += " ping";
  const clock = document.createElement("time");
  clock.textContent = new Date(time - time.getTimezoneOffset() * 60_000).toISOString().slice(11, 23);
  const arrow = document.createElement("abbr");
  arrow.textContent = direction === "in" ? "↓" : "↑";
  arrow.title = direction === "in" ? "from the server" : "to the server";
  const body = document.createElement("span");
  body.textContent = content.length > LONGEST ? `${content.slice(0, LONGEST)}…` : content;
  item.append(clock, arrow, body);
  return item;
}

function drawRate() {
  setText(byId("rate"), count(received.perSecond));
}

function count(number) {
  return number.toLocaleString("en");
}

byId("raw").addEventListener("toggle", () => redraw(drawRaw));

byId("pause").addEventListener("click", ({ currentTarget }) => {
  raw.paused = !raw.paused;
  currentTarget.textContent = raw.paused ? "Resume" : "Pause";
  redraw(drawRaw);
});

// --- The snippet ------------------------------------------------------------------------

const SQL = byId("snippet").textContent;

/** Quotes for a POSIX shell, if need be. */
function shellWord(word) {
  return /^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", String.raw`'\''`)}'`;
}

async function showDatabase() {
  try {
    const response = await fetch("demo.json");
    if (!response.ok) return;
    const { database, version } = await response.json();
    setText(byId("version"), text(version));
    if (!text(database)) return;
    // Inside double quotes the shell would take these for itself.
    const quoted = SQL.replace(/["$`\\]/g, String.raw`\$&`);
    setText(byId("snippet"), `sqlite3 -cmd '.timeout 5000' ${shellWord(database)} "${quoted}"`);
    setText(byId("publish-hint"), "Paste this into a shell and watch the first bar.");
  } catch {
    // The plain INSERT is there already.
  }
}

let copiedTimer;

byId("copy").addEventListener("click", async ({ currentTarget: button }) => {
  const done = await copy(byId("snippet"));
  button.textContent = done ? "Copied" : "Select";
  setText(byId("copied"), done ? "Copied" : "Selected; copy it with the keyboard");
  clearTimeout(copiedTimer);
  copiedTimer = setTimeout(() => {
    button.textContent = "Copy";
    setText(byId("copied"), "");
  }, 2_000);
});

async function copy(element) {
  try {
    await navigator.clipboard.writeText(element.textContent);
    return true;
  } catch {
    // No clipboard outside secure contexts (http: on another host than localhost).
    getSelection().selectAllChildren(element);
    return document.execCommand("copy");
  }
}

// --- Going live -------------------------------------------------------------------------

const cable = connect(undefined, {
  status(status) {
    setData(byId("connection"), "status", status);
    setText(byId("connection-text"), status);
  },
  frame: recordFrame,
});

const draws = [];

for (const [id, title] of Object.entries(JOBS)) {
  const job = newJob(id, title);
  const row = newRow(job);
  const draw = () => drawJob(job, row);
  draws.push(draw);
  draw();
  cable.subscribe({ channel: "ProgressChannel", job_id: id }, {
    received(message) {
      receive(job, message);
      redraw(draw);
    },
    disconnected() {
      // Whole runs may go by unseen: believe the next message, whatever it says.
      job.run = null;
    },
    rejected() {
      job.message = "the server refused this subscription";
      job.status = "rejected";
      redraw(draw);
    },
  });
}

// Time passes without messages, too: silence, countdowns, marks.
setInterval(() => {
  draws.forEach(redraw);
  received.perSecond = received.count;
  received.count = 0;
  redraw(drawRate);
}, 1_000);

showDatabase();

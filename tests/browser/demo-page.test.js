/** What somebody sees who runs `tablecast demo` and opens its page. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { complete, demo, metric, openPage, serve, start } from "./support.js";

/** Resolves when each of the five bars has stood at three places since. */
async function barsMove(page) {
  await page.evaluate(() => delete globalThis.seen);
  await page.waitForFunction(() => {
    const bars = [...document.querySelectorAll("[role=progressbar]")];
    globalThis.seen ??= bars.map(() => new Set());
    bars.forEach((bar, index) => seen[index].add(bar.ariaValueNow));
    return bars.length === 5 && seen.every((places) => places.size >= 3);
  });
}

/** Resolves when all bars listen: they subscribe in order, and the last has heard something. */
const barsListen = (page) => page.locator("#jobs > :last-child:not([data-status=unknown])").waitFor();

/** Resolves when the first bar carries the mark of a row that no worker published. */
function markAt(page, percent) {
  return page.waitForFunction((left) => {
    const mark = document.querySelector("#jobs > :first-child .mark");
    return mark && !mark.hidden && mark.style.left === left;
  }, `${percent}%`);
}

const statusBecomes = (page, status) => page.locator("#connection-text", { hasText: status }).waitFor();

test("five bars appear and move, and the browser has nothing to complain about", async (t) => {
  const server = await demo(t);

  const page = await openPage(t, server.origin);

  await barsMove(page);
  await statusBecomes(page, "live");
  assert.deepEqual(await page.getByRole("listitem").getByRole("heading").allTextContents(), [
    "Import customers",
    "Make thumbnails",
    "Monthly report",
    "Transcode video",
    "Send newsletter",
  ]);
  assert.equal(String(page.problems), "nothing");
});

test("a bar is as long as its percentage says", async (t) => {
  const server = await demo(t);
  // No transitions, so that a bar is where it ends.
  const page = await openPage(t, server.origin, { reducedMotion: "reduce" });
  await barsMove(page);

  const bars = await page.evaluate(() =>
    [...document.querySelectorAll(".job")].map((job) => {
      const bar = job.querySelector(".bar");
      const [track, fill] = [bar, job.querySelector(".fill")].map((part) => part.getBoundingClientRect());
      return {
        long: (100 * (fill.right - track.left)) / track.width,
        spoken: Number(bar.ariaValueNow),
        written: job.querySelector(".percent").textContent,
      };
    }),
  );

  for (const { long, spoken, written } of bars) {
    assert.equal(written, `${spoken}%`);
    assert.ok(Math.abs(long - spoken) <= 1, `${long} for ${written}`);
  }
});

test("a row that the sqlite3 shell inserts shows up on the page", async (t) => {
  const server = await demo(t);
  const page = await openPage(t, server.origin);
  await barsListen(page);

  await server.insert("progress:import", { percent: 37, message: "<b>typed</b> & sent" });

  await markAt(page, 37);
  assert.equal(await page.locator("b").count(), 0);
  assert.equal(String(page.problems), "nothing");
});

test("the command that the page shows works as it stands, while others write", async (t) => {
  const server = await demo(t);
  const page = await openPage(t, server.origin);
  await barsListen(page);

  const snippet = await page.getByText(server.database).textContent();
  const writer = start(t, "sqlite3", ["-bail", "-cmd", ".timeout 5000", server.database], {
    input: "BEGIN IMMEDIATE;\n.shell echo writing; sleep 0.5\nCOMMIT;\n",
  });
  await writer.line(/^writing$/);
  const { code, stderr } = await complete(t, "sh", ["-c", snippet]);

  assert.equal(code, 0, stderr);
  await markAt(page, 50);
});

test("raw messages can be opened, held and let go on", async (t) => {
  const server = await demo(t);
  const page = await openPage(t, server.origin);
  const frames = page.locator("#frames li");
  // The list moves fast; a locator might look too seldom.
  const shown = (text) =>
    page.waitForFunction((text) => {
      const frames = [...document.querySelectorAll("#frames li")];
      return frames.some((frame) => frame.innerText.includes(text));
    }, text);
  await barsListen(page);
  assert.equal(await page.locator("#frames").isVisible(), false);

  await page.getByText("Raw messages").click();
  await shown('{"type":"ping"');
  await server.insert("progress:import", { message: "one of <mine>" });
  await shown('"message":{"message":"one of <mine>"},"stream_id":');

  await page.getByRole("button", { name: "Pause" }).click();
  await page.getByText(/^paused, [1-9]\d* more since$/).waitFor();
  const newest = await frames.first().innerText();
  await server.insert("progress:import", { percent: 61 });
  await markAt(page, 61);
  assert.equal(await frames.first().innerText(), newest);

  await page.getByRole("button", { name: "Resume" }).click();
  await page.getByText(/^newest first/).waitFor();
  assert.notEqual(await frames.first().innerText(), newest);
});

test("the page says when its server is gone, and goes on when one is back", async (t) => {
  const server = await demo(t);
  const page = await openPage(t, server.origin);
  await statusBecomes(page, "live");
  await barsListen(page);

  await server.stop("SIGKILL");

  await statusBecomes(page, "reconnecting");
  const successor = await serve(t, ["--public-channel", "ProgressChannel=progress:{job_id}"], {
    listen: server.host,
  });
  await statusBecomes(page, "live");
  // Its subscribes are on their way.
  await metric(successor, "tablecast_subscriptions", await page.locator("#jobs > *").count());
  await successor.insert("progress:import", { percent: 83 });
  await markAt(page, 83);
});

test("the page says when its server is told to stop, too", async (t) => {
  const server = await demo(t);
  const page = await openPage(t, server.origin);
  await statusBecomes(page, "live");

  const ended = server.stop("SIGTERM");

  await statusBecomes(page, "reconnecting");
  assert.equal(await ended, 0);
});

test("nothing overflows on a narrow screen, whatever comes", async (t) => {
  const server = await demo(t);
  const page = await openPage(t, server.origin, { viewport: { width: 375, height: 800 }, isMobile: true });
  await barsListen(page);
  await page.getByText("Raw messages").click();
  await page.locator("#frames li").first().waitFor();

  await server.insert("progress:import", { percent: 44, title: "T".repeat(200), message: "m".repeat(2_000) });
  await markAt(page, 44);

  const outside = await page.evaluate(() => {
    const clipped = (element) =>
      element && (getComputedStyle(element).overflowX !== "visible" || clipped(element.parentElement));
    return [...document.body.querySelectorAll("*")]
      .filter((element) => element.checkVisibility() && !clipped(element.parentElement))
      .filter((element) => element.getBoundingClientRect().right > 375.5)
      .map((element) => element.outerHTML.slice(0, 100));
  });
  assert.deepEqual(outside, []);
  assert.equal(await page.evaluate(() => document.documentElement.scrollWidth), 375);
});

test("two pages see the same, and one is none the worse for the other's going", async (t) => {
  const server = await demo(t);
  const [one, other] = await Promise.all([openPage(t, server.origin), openPage(t, server.origin)]);
  await Promise.all([one, other].map(barsMove));

  await server.insert("progress:import", { percent: 29 });
  await Promise.all([markAt(one, 29), markAt(other, 29)]);

  await one.close();
  await barsMove(other);
  assert.equal(String(other.problems), "nothing");
});

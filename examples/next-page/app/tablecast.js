/** What this application's server asks of tablecast. */

const INTERNAL = process.env.TABLECAST_INTERNAL ?? "http://127.0.0.1:8081";
const PUBLIC = process.env.TABLECAST_PUBLIC ?? "http://127.0.0.1:8080";
const KEY = process.env.TABLECAST_PUBLISH_KEY; // of the internal listener, if it has one

/** A stream's last messages, and the position from which to go on: { messages, position }. */
export async function history(stream) {
  const headers = KEY ? { authorization: `Bearer ${KEY}` } : {};
  const url = `${INTERNAL}/history?${new URLSearchParams({ stream })}`;
  const response = await fetch(url, { headers, cache: "no-store", signal: AbortSignal.timeout(5_000) });
  if (!response.ok) throw new Error(`tablecast: ${response.status} ${await response.text()}`);
  return response.json();
}

/** The stream itself, from a position on, as the response to a page's EventSource. */
export async function events(identifier, from, signal) {
  const query = new URLSearchParams({ identifier: JSON.stringify(identifier) });
  if (from) query.set("last-event-id", from);
  const headers = { "content-type": "text/event-stream", "cache-control": "no-cache, no-transform" };
  try {
    const { status, body } = await fetch(`${PUBLIC}/events?${query}`, { cache: "no-store", signal });
    return new Response(body, { status, headers });
  } catch {
    // A browser gives up for good on an error; after a stream that ends it comes back.
    return new Response("retry: 2000\n\n", { headers });
  }
}

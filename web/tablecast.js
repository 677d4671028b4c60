/**
 * tablecast.js: a browser client for tablecast, and for anything else that speaks the Action Cable
 * protocol over a WebSocket (actioncable-v1-ext-json, else actioncable-v1-json).
 *
 *   import { connect } from "/tablecast.js";
 *
 *   const cable = connect();                                // ws(s)://this-host/cable
 *   const subscription = cable.subscribe("progress:42", {   // or { channel: "…", … }
 *     received(message, { position }) { … },  // any JSON value, also null, false or a string
 *     connected({ reconnected }) { … },       // confirmed; again after every reconnection
 *     missed({ reason }) { … },               // messages may be missing: load the page's state again
 *     disconnected({ willReconnect }) { … },  // connection lost; false: for good
 *     rejected() { … },                       // refused; the subscription is over
 *   }, { from });
 *   subscription.unsubscribe();
 *   cable.close();
 *
 * Every callback may be left out.
 *
 * After a lost connection a subscription is given what it missed, once each, before anything newer. Where
 * the server can't do that it says so, and `missed` is called, without a reason. `from` is a position to begin at,
 * as `received` or tablecast's HTTP have told it: of the moment at which the page's state was read, say.
 * A server without positions leaves them undefined, and `missed` has the reason "unsupported" if there was a `from`.
 *
 * Subscriptions of one identifier share one subscription on the wire, so whatever the server sends on
 * subscribing reaches the first of them only. A later one that has another `from` hears `missed`,
 * with the reason "shared".
 */

const EXTENDED = "actioncable-v1-ext-json"; // messages have positions
const PLAIN = "actioncable-v1-json";
const NEW = "new"; // asks for nothing, and hears when all that a newcomer is given has come
const SLACK = 60; // s; a transaction may commit so long after it wrote its rows' times
const SILENCE = 7_000; // ms; the server pings every 3 s, so this is two pings missed
const FIRST_DELAY = 500; // ms; ceiling of the wait before the first reconnection …
const LONGEST_DELAY = 10_000; // … which doubles with each failure, up to this

/**
 * Opens a connection, and keeps it open until `close()`.
 *
 * @param {string|URL} [url] where the cable is; http(s) and relative URLs will do
 * @param {object} [options]
 * @param {(status: "connecting"|"live"|"reconnecting"|"closed") => void} [options.status]
 *   called when `cable.status` changes
 * @param {(text: string, direction: "in"|"out") => void} [options.frame]
 *   called with every frame as it is on the wire, for logs
 * @returns {Cable}
 */
export function connect(url = "/cable", options = {}) {
  return new Cable(url, options);
}

class Cable {
  #url;
  #options;
  #status = "connecting";
  #socket = null; // null while waiting to retry, and once closed
  #welcomed = false; // commands may be sent
  #heard = 0; // when the last frame came, or the attempt began
  #failures = 0; // attempts since a connection last proved good
  #retry;
  #watchdog;
  #extended = false; // what was selected
  #ahead = 0; // s; the server's clock less ours
  // identifier (JSON text) -> { confirmed, listeners, position, since, asked }
  // position: { stream_id, epoch, offset } of the last message; since: without one, all that came
  // before this second has come; asked: what of these two, or NEW, the server hasn't answered yet;
  // isAgain: it was subscribed before on this connection
  #channels = new Map();
  // identifier -> how many of our subscribes the server has yet to answer, more than one where a
  // channel was left and came again; those of this connection, and none where it has no positions
  #unanswered = new Map();

  constructor(url, options) {
    this.#url = new URL(url, globalThis.location?.href);
    this.#url.protocol = this.#url.protocol.replace("http", "ws");
    this.#options = options;
    this.#open(); // first, because it throws if the URL is no good
    this.#watchdog = setInterval(this.#checkPulse, 1_000);
    globalThis.addEventListener?.("online", this.#wake);
    globalThis.document?.addEventListener("visibilitychange", this.#wake);
  }

  get status() {
    return this.#status;
  }

  /**
   * @param {object|string} identifier a channel and its parameters, or the name of
   *   a stream, short for `{ channel: "$pubsub", stream_name: … }`
   * @param {object} [callbacks] see the top of this file
   * @param {{ from?: string }} [options] a position: begin with what came after it
   * @returns {{ identifier: string, unsubscribe(): void }}
   */
  subscribe(identifier, callbacks = {}, { from } = {}) {
    const key = JSON.stringify(
      typeof identifier === "string" ? { channel: "$pubsub", stream_name: identifier } : identifier,
    );
    let channel = this.#channels.get(key);
    const isLate = channel && from && from !== channel.position?.epoch;
    if (!channel) {
      channel = { confirmed: false, listeners: new Set() };
      // No message has told yet what the server calls the stream; the identifier will do.
      if (from) channel.position = { stream_id: key, epoch: from, offset: 0 };
      this.#channels.set(key, channel);
      this.#ask(key, channel);
    }
    const listener = { callbacks, active: true, connected: false, reconnected: false };
    channel.listeners.add(listener);
    // What is already known is told too, but never before the caller has its subscription.
    queueMicrotask(() => {
      if (channel.confirmed) this.#tellConnected(listener);
      if (isLate) tell(listener, "missed", { reason: "shared" });
      if (this.#status === "closed") this.#tellDisconnected(listener, false);
    });
    return { identifier: key, unsubscribe: () => this.#unsubscribe(key, channel, listener) };
  }

  /** Closes the connection for good. */
  close() {
    if (this.#status !== "closed") this.#lose(false);
  }

  #unsubscribe(key, channel, listener) {
    listener.active = false;
    channel.listeners.delete(listener);
    // A rejected channel is out of the map already, perhaps with a new one in its place.
    if (channel.listeners.size > 0 || this.#channels.get(key) !== channel) return;
    this.#channels.delete(key);
    this.#send("unsubscribe", key);
  }

  #open() {
    clearTimeout(this.#retry);
    this.#heard = Date.now();
    this.#socket = new WebSocket(this.#url, [EXTENDED, PLAIN]);
    this.#socket.onmessage = ({ data }) => this.#receive(data);
    this.#socket.onclose = () => this.#lose(true);
  }

  #lose(willReconnect) {
    const socket = this.#socket;
    this.#socket = null;
    this.#welcomed = false;
    if (socket) {
      // On a dead network the closing handshake takes minutes; nobody waits for it.
      socket.onmessage = socket.onclose = null;
      socket.close();
    }
    clearTimeout(this.#retry);
    if (willReconnect) {
      // Full jitter: a restarted server must not meet all its clients in one instant.
      const ceiling = Math.min(LONGEST_DELAY, FIRST_DELAY * 2 ** this.#failures++);
      this.#retry = setTimeout(() => this.#open(), Math.random() * ceiling);
    } else {
      clearInterval(this.#watchdog);
      globalThis.removeEventListener?.("online", this.#wake);
      globalThis.document?.removeEventListener("visibilitychange", this.#wake);
    }
    // Callbacks last: one of them may well call close().
    const channels = [...this.#channels.values()];
    for (const channel of channels) channel.confirmed = false;
    if (!willReconnect) this.#setStatus("closed");
    else if (this.#status === "live") this.#setStatus("reconnecting");
    for (const { listeners } of channels) {
      for (const listener of [...listeners]) this.#tellDisconnected(listener, willReconnect);
    }
  }

  // Date.now() because, unlike performance.now(), it counts the time a laptop slept;
  // abs() because the clock may be set back.
  #checkPulse = () => {
    if (this.#socket && Math.abs(Date.now() - this.#heard) > SILENCE) this.#lose(true);
  };

  #wake = () => {
    if (globalThis.document?.visibilityState === "hidden") return;
    this.#checkPulse();
    if (!this.#socket && this.#status !== "closed") this.#open();
  };

  #receive(text) {
    this.#heard = Date.now();
    call(this.#options, "frame", text, "in");
    if (!this.#socket) return; // closed by that callback
    let frame;
    try {
      frame = JSON.parse(text);
    } catch {
      return;
    }
    const channel = this.#channels.get(frame?.identifier);
    switch (frame?.type) {
      case "welcome":
        this.#welcomed = true;
        this.#extended = this.#socket.protocol === EXTENDED;
        this.#unanswered.clear();
        for (const [key, channel] of [...this.#channels]) this.#ask(key, channel);
        return this.#setStatus("live");
      case "ping":
        // Only now, not at the welcome: a server that greets and falls over must not
        // be called again at full speed.
        this.#failures = 0;
        return this.#setClock(frame.message);
      case "disconnect":
        return this.#lose(frame.reconnect !== false);
      case "confirm_subscription":
        if (!this.#isOfLatest(frame.identifier) || !channel) return; // unsubscribed meanwhile
        channel.confirmed = true;
        channel.since ??= this.#now();
        for (const listener of [...channel.listeners]) this.#tellConnected(listener);
        if (channel.position && !this.#extended) this.#forget(channel, { reason: "unsupported" });
        return;
      case "confirm_history":
        if (channel?.confirmed) channel.asked = undefined;
        return;
      case "reject_history":
        if (!channel?.confirmed || !channel.asked) return;
        if (channel.asked === NEW) channel.asked = undefined;
        else this.#forget(channel, {});
        return;
      case "reject_subscription":
        if (!this.#isOfLatest(frame.identifier) || !channel) return;
        this.#channels.delete(frame.identifier);
        for (const listener of [...channel.listeners]) {
          tell(listener, "rejected");
          listener.active = false;
        }
        return;
      case undefined:
        if (!channel || !Object.hasOwn(frame, "message")) return;
        // Not held back until the confirmation: it belongs to this identifier either way. But what an
        // earlier subscription of it still gets will come again if this one is given what came before it.
        const isGivenThePast = channel.isAgain || (channel.asked && channel.asked !== NEW);
        if (isGivenThePast && !channel.confirmed) return;
        if (frame.stream_id && frame.epoch) {
          const { stream_id, epoch, offset } = frame;
          channel.position = { stream_id, epoch, offset };
        }
        for (const listener of [...channel.listeners]) {
          tell(listener, "received", frame.message, { position: channel.position?.epoch });
        }
    }
  }

  /** Subscribes, and asks for what was missed. */
  #ask(key, channel) {
    channel.asked = this.#extended ? (channel.position ?? channel.since ?? NEW) : undefined;
    if (this.#welcomed && this.#extended) {
      channel.isAgain = this.#unanswered.has(key);
      this.#unanswered.set(key, (this.#unanswered.get(key) ?? 0) + 1);
    }
    if (channel.asked === NEW) this.#send("subscribe", key, { streams: {} });
    else if (typeof channel.asked === "object") {
      const { stream_id, ...position } = channel.asked;
      this.#send("subscribe", key, { streams: { [stream_id]: position } });
    } else {
      this.#send("subscribe", key, channel.asked && { since: channel.asked, streams: {} });
    }
  }

  /** Whether an answer is that to the latest subscribe of its identifier. */
  #isOfLatest(key) {
    const unanswered = this.#unanswered.get(key);
    if (unanswered) this.#unanswered.set(key, unanswered - 1);
    return !(unanswered > 1);
  }

  /** What was missed can't be had. */
  #forget(channel, why) {
    // Unless a message has come since, the next connection would only be refused again.
    if (!channel.asked || channel.position === channel.asked) channel.position = undefined;
    channel.asked = undefined;
    channel.since = this.#now();
    for (const listener of [...channel.listeners]) tell(listener, "missed", why);
  }

  #now() {
    return Math.floor(Date.now() / 1_000) + this.#ahead;
  }

  /** A heartbeat: all that was due before it has come. */
  #setClock(seconds) {
    if (Number.isInteger(seconds)) this.#ahead += seconds - this.#now();
    for (const channel of this.#channels.values()) {
      if (channel.asked || !channel.since) continue;
      // No later than now: until the first heartbeat our clock alone was there to go by.
      channel.since = Math.min(this.#now(), Math.max(channel.since, this.#now() - SLACK));
    }
  }

  #send(command, identifier, history) {
    if (!this.#welcomed) return; // the welcome sends for everyone who is waiting
    const text = JSON.stringify({ command, identifier, history });
    this.#socket.send(text);
    call(this.#options, "frame", text, "out");
  }

  #setStatus(status) {
    if (this.#status === status) return;
    this.#status = status;
    call(this.#options, "status", status);
  }

  #tellConnected(listener) {
    if (listener.connected) return;
    const { reconnected } = listener;
    listener.connected = listener.reconnected = true;
    tell(listener, "connected", { reconnected });
  }

  // Losing a connection that wasn't there yet is no news, except that it's the end.
  #tellDisconnected(listener, willReconnect) {
    if (!listener.connected && willReconnect) return;
    listener.connected = false;
    tell(listener, "disconnected", { willReconnect });
    if (!willReconnect) listener.active = false;
  }
}

function tell(listener, name, ...args) {
  if (listener.active) call(listener.callbacks, name, ...args);
}

// A callback that throws is its author's trouble, not that of the next callback in line.
function call(callbacks, name, ...args) {
  try {
    callbacks[name]?.(...args);
  } catch (error) {
    reportError(error);
  }
}

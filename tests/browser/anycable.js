/** AnyCable's own client, as npm has it, as a test sees it. */

import { createCable } from "@anycable/core";
import { WebSocket } from "ws";

import { defer, Inbox } from "./support.js";

const EXTENDED = "actioncable-v1-ext-json";

/** A cable of the extended protocol; `cable.wire` has the frames of both directions, `cable.complaints` its log. */
export function connect(t, url, options = {}) {
  const [wire, complaints] = [new Inbox(`frames of ${url}`), new Inbox(`complaints of ${url}`)];
  class Wire extends WebSocket {
    constructor(...args) {
      super(...args);
      wire.socket = this;
      wire.push("open", this.url);
      this.addEventListener("message", ({ data }) => wire.push("in", JSON.parse(data)));
    }

    send(text) {
      wire.push("out", JSON.parse(text));
      super.send(text);
    }
  }
  const complain = (level) => (text, details) => complaints.push(level, { text, details });
  const cable = createCable(url, {
    protocol: EXTENDED,
    websocketImplementation: Wire,
    // An event loop's turn for each message, as browsers have it, and a page's header.
    websocketOptions: { allowSynchronousEvents: false, origin: `http://${new URL(url).host}` },
    // Its own doubles from some seconds up, without an end.
    reconnectStrategy: () => 20,
    logger: { debug() {}, info() {}, warn: complain("warn"), error: complain("error") },
    ...options,
  });
  defer(t, () => {
    cable.disconnect();
    cable.monitor.dispose();
  });
  return Object.assign(cable, { wire, complaints });
}

/** What happens to a channel. */
export function listen(channel) {
  const inbox = new Inbox(`channel ${channel.identifier}`);
  for (const kind of ["connect", "disconnect", "close", "info", "presence"]) {
    channel.on(kind, (value) => inbox.push(kind, value));
  }
  channel.on("message", (message, meta) => {
    inbox.push("message", message);
    inbox.push("meta", meta);
  });
  return Object.assign(inbox, { channel });
}

/** What lies between a client and its servers: a TCP relay that a test can cut, hold and slow down. */

import { connect, createServer } from "node:net";

import { defer } from "./support.js";

class Relay {
  #links = new Set(); // { client, server }
  #held = null; // what clients have sent meanwhile, as functions

  /** `choose` gives the host:port for the next connection. */
  constructor(choose, delay) {
    this.choose = choose;
    this.delay = delay;
    this.listener = createServer({ allowHalfOpen: true, noDelay: true }, (client) => this.#link(client));
  }

  async listen() {
    await new Promise((listening) => this.listener.listen(0, "127.0.0.1", listening));
    this.host = `127.0.0.1:${this.listener.address().port}`;
    this.cable = `ws://${this.host}/cable`;
  }

  #link(client) {
    const [host, port] = this.choose().split(":");
    const server = connect({ host, port, allowHalfOpen: true, noDelay: true });
    const link = { client, server };
    this.#links.add(link);
    const end = () => {
      this.#links.delete(link);
      for (const socket of [client, server]) socket.destroy();
    };
    for (const socket of [client, server]) socket.on("error", end).on("close", end);
    const towards = (socket) => (chunk) => (chunk ? socket.write(chunk) : socket.end());
    this.#pipe(server, towards(client));
    const send = towards(server);
    this.#pipe(client, (chunk) => (this.#held ? this.#held.push(() => send(chunk)) : send(chunk)));
  }

  /** Hands on what a socket says, and its end as null, with the distance's delay. */
  #pipe(socket, take) {
    const late = this.delay ? (chunk) => setTimeout(take, this.delay, chunk) : take;
    socket.on("data", late).on("end", () => late(null));
  }

  /** Ends all connections, as a network does that is gone. Says whether there was any. */
  drop() {
    const links = [...this.#links];
    for (const { client, server } of links) for (const socket of [client, server]) socket.resetAndDestroy();
    this.#links.clear();
    return links.length > 0;
  }

  /** What clients send is on its way until `release`. */
  hold() {
    this.#held = [];
  }

  /** Resolves once something is on its way. */
  async holds() {
    while (this.#held.length === 0) await new Promise((resolve) => setTimeout(resolve, 1));
  }

  release() {
    const held = this.#held;
    this.#held = null;
    for (const send of held) send();
  }

  close() {
    this.listener.close();
    for (const { client, server } of this.#links) for (const socket of [client, server]) socket.destroy();
  }
}

/** A relay to a server, or to whichever of several `choose` says. `delay` is one way, in ms. */
export async function relay(t, choose, { delay = 0 } = {}) {
  const relay = new Relay(typeof choose === "string" ? () => choose : choose, delay);
  await relay.listen();
  defer(t, () => relay.close());
  return relay;
}

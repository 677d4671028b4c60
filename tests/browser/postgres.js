/** A PostgreSQL server of a test's own. */

import { appendFile, readdir, writeFile } from "node:fs/promises";
import { join } from "node:path";

import pg from "pg";

import { complete, defer, freePort, ordinarily, ordinaryFolder, start } from "./support.js";

const PASSWORD = "secret";

async function programs() {
  const versions = await readdir("/usr/lib/postgresql");
  return join("/usr/lib/postgresql", versions.sort((a, b) => b - a)[0], "bin");
}

class Postgres {
  constructor(t, cwd, bin, port) {
    Object.assign(this, { t, cwd, bin, port });
    this.url = `postgres://admin:${PASSWORD}@127.0.0.1:${port}/postgres`;
  }

  async start() {
    this.program = start(this.t, ...ordinarily(join(this.bin, "postgres"), ["-D", "data"]), { cwd: this.cwd });
    await this.connect().then((client) => client.end());
  }

  /** A session, as soon as it takes any. */
  async connect() {
    for (;;) {
      const client = new pg.Client({ connectionString: this.url });
      client.on("error", () => {}); // whoever asks next hears of it
      try {
        await client.connect();
        return client;
      } catch {
        await new Promise((resolve) => setTimeout(resolve, 20));
      }
    }
  }

  async query(sql, values) {
    const client = await this.connect();
    try {
      return (await client.query(sql, values)).rows;
    } finally {
      await client.end();
    }
  }

  /** Open transactions are rolled back. */
  async restart() {
    this.program.signal("SIGINT");
    await this.program.ended();
    await this.start();
  }
}

export async function postgres(t) {
  const [cwd, bin, port] = [await ordinaryFolder(t), await programs(), await freePort()];
  await writeFile(join(cwd, "password"), PASSWORD);
  const args = ["-D", "data", "-U", "admin", "--pwfile=password", "--auth=scram-sha-256", "--no-sync", "--no-locale"];
  const { code, stderr } = await complete(t, ...ordinarily(join(bin, "initdb"), [...args, "--encoding=UTF8"]), { cwd });
  if (code !== 0) throw new Error(`initdb: ${stderr}`);
  const settings = {
    listen_addresses: "127.0.0.1", port, unix_socket_directories: cwd, fsync: "off", max_connections: 100,
  };
  const lines = Object.entries(settings).map(([name, value]) => `${name} = '${value}'\n`);
  await appendFile(join(cwd, "data/postgresql.conf"), lines.join(""));
  const server = new Postgres(t, cwd, bin, port);
  await server.start();
  defer(t, () => server.program.signal("SIGINT"));
  return server;
}

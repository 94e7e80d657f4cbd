// The original's calls, as its documentation has them, with Kysely: over bun:sqlite under Bun, over better-sqlite3 under
// Node. Prints how many of each it does in a second, as JSON. Arguments: the store's file, seconds for each call, runs.
import { createRequire } from "node:module";
import { performance } from "node:perf_hooks";

const require = createRequire(`${process.cwd()}/`);
const { Kysely, SqliteDialect, sql } = require("kysely");
const [file, seconds, runs] = [process.argv[2], Number(process.argv[3]), Number(process.argv[4])];

function dialect() {
  if (process.versions.bun) {
    const { BunSqliteDialect } = require("kysely-bun-sqlite");
    const { Database } = require("bun:sqlite");
    return new BunSqliteDialect({ database: new Database(file) });
  }
  return new SqliteDialect({ database: new (require("better-sqlite3"))(file) });
}

const db = new Kysely({ dialect: dialect() });
await sql`PRAGMA journal_mode = WAL`.execute(db);

const parsed = (run) => run && { ...run, args: JSON.parse(run.args) };
const someone = () => 1 + Math.floor(Math.random() * runs);
const from = (table) => db.selectFrom(table).selectAll();

const calls = {
  get_project_by_dir: () => from("projects").where("dir", "=", "/somewhere").executeTakeFirst(),
  get_run_by_id: async () => parsed(await from("runs").where("id", "=", someone()).executeTakeFirst()),
  get_run_by_pid: async () =>
    parsed(await from("runs").where("pid", "=", 1000 + someone()).orderBy("started_at", "desc").executeTakeFirst()),
  get_running_runs: async () => (await from("runs").where("status", "=", "running").execute()).map(parsed),
  create_run: async () => {
    const row = { pid: process.pid, project_id: 1, status: "running", args: JSON.stringify(["-p", "hi"]) };
    await db.insertInto("runs").values(row).executeTakeFirst();
    await db.updateTable("projects").set({ last_run_at: Date.now() }).where("id", "=", 1).execute();
  },
  update_run_status: () => {
    const ended = { status: "completed", ended_at: Date.now(), exit_code: 0 };
    return db.updateTable("runs").set(ended).where("id", "=", someone()).executeTakeFirst();
  },
  get_all_runs: async () => (await from("runs").orderBy("started_at", "desc").execute()).map(parsed),
};

const done = {};
for (const [name, call] of Object.entries(calls)) {
  for (let warming = 0; warming < 3; warming++) await call();
  const began = performance.now();
  let count = 0;
  while (performance.now() - began < seconds * 1000) {
    await call();
    count++;
  }
  done[name] = count / ((performance.now() - began) / 1000);
}
console.log(JSON.stringify(done));
await db.destroy();

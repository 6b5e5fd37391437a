// Convex's public HTTP API, and its sync socket (`sync.mjs`), in front of the vendor's own mock (`convex-test`), which runs the functions that
// Larder ships.
//
//   node server.mjs FUNCTIONS_FOLDER      with NODE_MODULES naming the folder of convex, convex-test, esbuild and ws
//
// The functions are compiled as a deployment compiles them. One request is answered at a time, as transactions are serial there. Calls and
// documents read are counted (`/test/counts`). Prints `ready PORT`. Ends with its standard input.
import http from "node:http";
import fs from "node:fs";
import os from "node:os";
import path from "node:path";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";
import { syncSocket } from "./sync.mjs";

const packages = process.env.NODE_MODULES;
const require = createRequire(path.join(packages, "x.js"));
const esbuild = require("esbuild");
const { WebSocketServer } = require("ws");
const folder = fs.mkdtempSync(path.join(os.tmpdir(), "larder-convex-"));
process.on("exit", () => fs.rmSync(folder, { recursive: true, force: true }));
fs.symlinkSync(packages, path.join(folder, "node_modules"));
fs.writeFileSync(path.join(folder, "package.json"), '{"type":"module"}');
for (const name of fs.readdirSync(process.argv[2])) {
  const source = fs.readFileSync(path.join(process.argv[2], name), "utf8");
  const code = esbuild.transformSync(source, { loader: "ts", format: "esm" }).code.replaceAll('"./larder"', '"./larder.js"');
  fs.writeFileSync(path.join(folder, name.replace(/\.ts$/, ".js")), code);
}
fs.writeFileSync(
  path.join(folder, "entry.js"),
  `export { convexTest } from "convex-test";
   export { convexToJson, jsonToConvex } from "convex/values";
   export { makeFunctionReference } from "convex/server";`,
);
const at = (name) => pathToFileURL(path.join(folder, name)).href;
const { convexTest, convexToJson, jsonToConvex, makeFunctionReference } = await import(at("entry.js"));
const schema = (await import(at("schema.js"))).default;
const modules = { "./convex/_generated/api.js": async () => ({}) };
for (const name of ["larder", "files"]) modules[`./convex/${name}.js`] = () => import(at(`${name}.js`));
const deployment = convexTest(schema, modules);

// What the functions asked for and read, since the last look.
let counts = { calls: 0, documents: 0 };
const convex = globalThis.Convex;
const read = (op, told) => {
  if (op === "1.0/get") return told === null ? 0 : 1;
  if (op === "1.0/queryStreamNext") return told.done ? 0 : 1;
  return op === "1.0/queryPage" ? told.page.length : 0;
};
globalThis.Convex = {
  syscall: (...words) => convex.syscall(...words),
  jsSyscall: (...words) => convex.jsSyscall(...words),
  asyncSyscall: async (op, words) => {
    const told = await convex.asyncSyscall(op, words);
    counts.documents += read(op, JSON.parse(told));
    return told;
  },
};

const parsed = (text) => {
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
};

async function answer(kind, body) {
  const encoded = body.format === "convex_encoded_json";
  const args = jsonToConvex(Array.isArray(body.args) ? body.args[0] : (body.args ?? {}));
  try {
    const value = await deployment[kind](makeFunctionReference(body.path), args);
    return [200, { status: "success", value: convexToJson(value ?? null), logLines: [] }];
  } catch (error) {
    const data = error?.data === undefined ? {} : { errorData: convexToJson(parsed(error.data)) };
    const errorMessage = `[Request ID: test] Server Error\nUncaught ${error?.name}: ${error?.message}`;
    return [encoded ? 560 : 200, { status: "error", errorMessage, ...data, logLines: [] }];
  }
}

// So many small files of the app `app`, with their records, as the functions would have left them.
async function filled(rows) {
  await deployment.run(async (ctx) => {
    const last = await ctx.db.query("larderStore").first();
    for (let n = 1; n <= rows; n++) {
      const path = `f${String(n).padStart(6, "0")}`;
      const common = { id: `app:${path}`, app: "app" };
      const times = { last_updated: "2026-01-01T00:00:00Z", created_at: "2026-01-01T00:00:00Z" };
      await ctx.db.insert("files", { ...common, path, content: "text", owner_id: "shared", ...times });
      const pathKey = Buffer.from(path).toString("hex");
      const record = { ...common, owner: "shared", pathKey, listed: true, change: n, mirroredChange: n, kind: "text", pieces: [] };
      await ctx.db.insert("larderRecords", { ...record, lastUpdatedMs: 0, createdAtMs: 0 });
    }
    await ctx.db.patch(last._id, { change: rows });
  });
  return rows;
}

// Past the functions, as the dashboard: counts and changes documents of a table.
async function past(table, { act, id, content, row, rows }) {
  if (act === "fill") return filled(rows);
  return deployment.run(async (ctx) => {
    const all = await ctx.db.query(table).collect();
    const found = all.find((one) => one.id === id);
    if (act === "edit") await ctx.db.patch(found._id, { content });
    if (act === "delete") await ctx.db.delete(found._id);
    if (act === "insert") await ctx.db.insert(table, row);
    return all.length;
  });
}

let line = Promise.resolve();
const inLine = (work) => (line = line.then(work));
const server = http.createServer((request, response) => {
  const parts = [];
  request.on("data", (part) => parts.push(part));
  request.on("end", () => {
    inLine(async () => {
      const send = (code, value) => {
        response.writeHead(code, { "content-type": "application/json" });
        response.end(JSON.stringify(value));
      };
      const kind = request.url.match(/^\/api\/(query|mutation)$/)?.[1];
      const body = parsed(Buffer.concat(parts).toString("utf8"));
      const table = request.url.match(/^\/test\/(\w+)$/)?.[1];
      if (table === "counts") {
        send(200, counts);
        counts = { calls: 0, documents: 0 };
        return;
      }
      if (table === "socket") return send(200, socket.act(body));
      if (table) {
        const count = await past(table, body);
        await socket.changed();
        return send(200, count);
      }
      if (!kind) return send(404, { code: "NotFound", message: "no route" });
      if (typeof body !== "object") return send(400, { code: "BadJsonBody", message: "no JSON" });
      counts.calls += 1;
      const told = await answer(kind, body);
      if (kind === "mutation") await socket.changed();
      send(...told);
    });
  });
});
const socket = syncSocket({ server, WebSocketServer, answer, inLine });
server.keepAliveTimeout = 60_000;
server.listen(0, "127.0.0.1", () => console.log(`ready ${server.address().port}`));
process.stdin.on("end", () => process.exit(0)).resume();

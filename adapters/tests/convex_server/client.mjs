// The vendor's own client: `check` proves the server that the tests use, the other words are a program that writes beside Larder, and
// those that begin with `raw` write past the functions, as the dashboard does.
//
//   node client.mjs URL check | put APP PATH TEXT | delete APP PATH | read APP PATH | count TABLE | counts | fill ROWS | socket JSON | raw-.. ..
//   node client.mjs URL check-live | watch APP PATH | live-put APP PATH TEXT      the same over the sync socket
import assert from "node:assert";
import path from "node:path";
import { createRequire } from "node:module";

const require = createRequire(path.join(process.env.NODE_MODULES, "x.js"));
const { ConvexClient, ConvexHttpClient } = require("convex/browser");
const { makeFunctionReference } = require("convex/server");
const [url, word, ...words] = process.argv.slice(2);
const secret = process.env.LARDER_SECRET;
const client = new ConvexHttpClient(url, { logger: false, skipConvexDeploymentUrlCheck: true });
const query = (name, args) => client.query(makeFunctionReference(name), { secret, ...args });
const mutation = (name, args) => client.mutation(makeFunctionReference(name), { secret, ...args });

async function refused(work, code) {
  const error = await work.then(
    () => assert.fail(`${code} was expected`),
    (error) => error,
  );
  assert.strictEqual(error.data?.code, code, String(error));
}

async function check() {
  const write = (text, expected) => ({
    app: "check",
    owner: "shared",
    path: "a",
    kind: "text",
    text,
    expected,
    lastUpdatedMs: 1,
    createdAtMs: 1,
    lastUpdated: "",
    createdAt: "",
  });
  const apply = async (...writes) => mutation("larder:apply", { writes });
  const [{ change }] = await apply(write("one", { absent: true, change: 0 }));
  const answers = await apply(write("two", { absent: true, change: 0 }), write("two", { absent: false, change }));
  assert.deepStrictEqual([answers[0].error, answers[1].change], ["CONFLICT", change + 1]);
  await refused(mutation("files:put", { app: "check", path: "b", content: "x", secret: "other" }), "DENIED");
  await assert.rejects(query("larder:get", { ids: "no list" }));
  await assert.rejects(query("larder:nope", {}));
  assert.strictEqual(await query("files:get", { app: "check", path: "b" }), null);
  console.log("checked");
}

async function raw(table, act) {
  const answer = await fetch(`${url}/test/${table}`, { method: "POST", body: JSON.stringify(act) });
  return answer.text();
}

const live = () => new ConvexClient(url, { logger: false, skipConvexDeploymentUrlCheck: true, unsavedChangesWarning: false });
const reference = makeFunctionReference;

// Prints a file's text, and again whenever it changes.
function watch(app, path) {
  const print = (text) => console.log(JSON.stringify(text));
  live().onUpdate(reference("files:get"), { secret, app, path }, print, (error) => console.log(String(error)));
}

async function livePut(client, app, path, content) {
  await client.mutation(reference("files:put"), { secret, app, path, content });
}

async function checkLive() {
  const client = live();
  const heard = [];
  let tell = () => {};
  const on = (name) => (value) => (heard.push([name, value]), tell());
  const until = async (what) => {
    while (!heard.some(what)) await new Promise((resolve) => (tell = resolve));
    heard.splice(0, heard.findIndex(what) + 1);
  };
  await client.mutation(reference("larder:open"), { secret });
  const first = client.onUpdate(reference("larder:newest"), { secret }, on("newest"));
  await until(([name]) => name === "newest");
  client.onUpdate(reference("files:get"), { secret, app: "live", path: "a" }, on("a"));
  await until(([name, value]) => name === "a" && value === null);
  await livePut(client, "live", "a", "one");
  await until(([name, value]) => name === "a" && value === "one");
  const refused = new Promise((resolve) => client.onUpdate(reference("larder:newest"), { secret: "other" }, () => {}, resolve));
  assert.strictEqual((await refused).data?.code, "DENIED");
  await assert.rejects(livePut(client, "live", "a", 1));
  first();
  // Over a line that breaks, and in parts.
  await raw("socket", { drop: true, chunks: true });
  await mutation("files:put", { app: "live", path: "a", content: "two" });
  await until(([name, value]) => name === "a" && value === "two");
  await raw("socket", { chunks: false });
  await client.close();
  console.log("checked");
}

const [app, name, content] = words;
if (word === "check") await check();
else if (word === "put") await mutation("files:put", { app, path: name, content });
else if (word === "delete") await mutation("files:remove", { app, path: name });
else if (word === "read") console.log(await query("files:get", { app, path: name }));
else if (word === "check-live") await checkLive();
else if (word === "watch") watch(app, name);
else if (word === "live-put") {
  const client = live();
  await livePut(client, app, name, content);
  await client.close();
} else if (word === "counts") console.log(await raw("counts", {}));
else if (word === "socket") console.log(await raw("socket", JSON.parse(words[0])));
else if (word === "count") console.log(await raw(words[0], { act: "count" }));
else if (word === "fill") await raw("files", { act: "fill", rows: Number(words[0]) });
else if (word === "raw-edit") await raw("files", { act: "edit", id: words[0], content: words[1] });
else if (word === "raw-delete") await raw("files", { act: "delete", id: words[0] });
else if (word === "raw-insert") {
  const row = { id: "theirs", path: name, content, app, owner_id: "shared", last_updated: "", created_at: "" };
  await raw("files", { act: "insert", row });
}

// The vendor's own client for Node over REST: `check` proves the stand-in that the tests use, the other words are a program that
// knows only the seven fields of `files` and writes beside Larder.
//
//   node client.cjs check | put APP PATH TEXT [stamp] | delete APP PATH | read APP PATH
const assert = require("node:assert");
const { generateKeyPairSync } = require("node:crypto");
const { Firestore, FieldValue } = require("@google-cloud/firestore");

// Over REST it insists on signing something; the stand-in believes everybody.
const { privateKey } = generateKeyPairSync("rsa", {
  modulusLength: 2048,
  privateKeyEncoding: { type: "pkcs8", format: "pem" },
  publicKeyEncoding: { type: "spki", format: "pem" },
});
const credentials = { client_email: "a@b.example", private_key: privateKey };
const db = new Firestore({ projectId: "lab", preferRest: true, credentials });
const rows = db.collection("files");

async function refused(work, code) {
  try {
    await work;
  } catch (error) {
    assert.strictEqual(error.code, code, error.message);
    return;
  }
  assert.fail(`${code} was expected`);
}

async function check() {
  const all = db.collection("c");
  const a = all.doc("a");
  await a.set({ n: 1, s: "x", b: Buffer.from([1, 2, 3]) });
  const first = await a.get();
  assert.deepStrictEqual([first.data().n, [...first.data().b]], [1, [1, 2, 3]]);
  await a.update({ n: 2 });
  // Stale, then fresh: a precondition is the moment to the nanosecond.
  await refused(a.update({ n: 3 }, { lastUpdateTime: first.updateTime }), 400);
  const second = await a.get();
  assert.notStrictEqual(second.updateTime.nanoseconds % 1000000, 0);
  await a.update({ n: 4 }, { lastUpdateTime: second.updateTime });
  await refused(a.create({ n: 1 }), 409);
  await refused(a.delete({ lastUpdateTime: first.updateTime }), 400);
  await refused(all.doc("zzz").delete({ exists: true }), 404);
  // A commit is all or nothing.
  const batch = db.batch();
  batch.set(all.doc("b"), { n: 1 });
  batch.create(a, { n: 1 });
  await refused(batch.commit(), 409);
  assert.strictEqual((await all.doc("b").get()).exists, false);
  // Transactions are isolated.
  const increment = (meanwhile) =>
    db.runTransaction(
      async (t) => {
        const n = (await t.get(a)).data().n;
        await meanwhile();
        t.update(a, { n: n + 1 });
      },
      { maxAttempts: 1 },
    );
  await increment(async () => {});
  await refused(increment(() => a.update({ n: 9 })), 409);
  assert.strictEqual((await a.get()).data().n, 9);
  for (let i = 0; i < 7; i++) await all.doc(`q${i}`).set({ k: i, path: `/p/${i}` });
  const ids = async (query) => (await query.get()).docs.map((doc) => doc.id);
  assert.deepStrictEqual(await ids(all.where("k", ">=", 2).orderBy("k").limit(3)), ["q2", "q3", "q4"]);
  assert.deepStrictEqual(await ids(all.orderBy("k").startAfter(2).limit(2)), ["q3", "q4"]);
  assert.deepStrictEqual(await ids(all.orderBy("__name__").startAfter("q2").limit(2)), ["q3", "q4"]);
  assert.deepStrictEqual(await ids(all.where("k", "in", [1, 2])), ["q1", "q2"]);
  assert.deepStrictEqual((await all.where("k", "==", 2).select("path").get()).docs[0].data(), { path: "/p/2" });
  // What needs an index that nobody made is refused.
  await refused(all.where("path", "==", "x").orderBy("k").get(), 400);
  assert.strictEqual((await all.listDocuments()).length, 8);
  assert.deepStrictEqual((await db.getAll(all.doc("q1"), all.doc("nope"))).map((doc) => doc.exists), [true, false]);
  await a.set({ t: FieldValue.serverTimestamp(), n: FieldValue.increment(5) }, { merge: true });
  const stamped = (await a.get()).data();
  assert.ok(stamped.n === 14 && stamped.s === "x" && stamped.t.toMillis() > 0);
  // A write that changes nothing keeps the document's time.
  const before = (await all.doc("q1").get()).updateTime;
  await all.doc("q1").set({ k: 1, path: "/p/1" });
  assert.ok((await all.doc("q1").get()).updateTime.isEqual(before));
  assert.deepStrictEqual((await db.listCollections()).map((one) => one.id), ["c"]);
  await a.delete();
  assert.strictEqual((await a.get()).exists, false);
  console.log("checked");
}

async function main([word, app, path, text, stamp]) {
  const row = app && rows.doc(encodeURIComponent(`${app}:${path}`));
  if (word === "check") {
    await check();
  } else if (word === "put") {
    const stamps = stamp ? { last_updated: FieldValue.serverTimestamp() } : {};
    await row.set({ app, path, content: text, ...stamps }, { merge: true });
  } else if (word === "delete") {
    await row.delete();
  } else if (word === "read") {
    const found = await row.get();
    console.log(found.exists ? found.data().content : "(none)");
  }
}

main(process.argv.slice(2)).then(
  () => process.exit(0),
  (error) => {
    console.error(error);
    process.exit(1);
  },
);

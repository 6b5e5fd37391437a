// The functions that Larder calls. Every mutation is one transaction, and change numbers are given inside it, so that a feed along
// them has no gaps. Nobody is served without the secret of the deployment: `npx convex env set LARDER_SECRET <value>`.
import { mutationGeneric as mutation, queryGeneric as query } from "convex/server";
import { ConvexError, v } from "convex/values";

// A transaction may read 8 MiB; a row has up to 1 MiB, and the one that crosses a bound is read.
const PAGE_CHARS = 2_000_000;
const PAGE_RECORDS = 4_000;
const SWEEP_ROWS = 200;
const TIDY_PIECES = 6;
const who = { secret: v.string() };

// Throws unless the caller knows the secret and asks for an owner that this deployment is for.
export function admit(secret: string, owners: string[] = []) {
  const expected = process.env.LARDER_SECRET ?? "";
  let differs = expected.length === secret.length ? 0 : 1;
  for (let i = 0; i < secret.length; i++) differs |= secret.charCodeAt(i) ^ (expected.charCodeAt(i) || 0);
  if (expected === "" || differs !== 0) throw new ConvexError({ code: expected === "" ? "NO_SECRET" : "DENIED" });
  const allowed = process.env.LARDER_OWNERS;
  for (const owner of owners) {
    if (allowed && owner !== "shared" && !allowed.split(",").includes(owner)) throw new ConvexError({ code: "OWNER" });
  }
}

const escaped = (part: string) => part.replaceAll("%", "%25").replaceAll(":", "%3A");

// The name of a record, as Larder makes it.
export function recordId(app: string, owner: string, path: string) {
  if (owner !== "" && owner !== "shared") return `${escaped(app)}:${escaped(owner)}:${path}`;
  return `${escaped(app)}:${path.includes(":") ? "shared:" : ""}${path}`;
}

export function pathKey(path: string) {
  return [...new TextEncoder().encode(path)].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

// Tells whether a row is as it was when it was last told of. No proof against malice, which has the secret anyway.
export function fingerprint(text: string) {
  let [a, b] = [0xdeadbeef, 0x41c6ce57];
  for (let i = 0; i < text.length; i++) {
    a = Math.imul(a ^ text.charCodeAt(i), 2654435761);
    b = Math.imul(b ^ text.charCodeAt(i), 1597334677);
  }
  return `${text.length}.${(a >>> 0).toString(16)}.${(b >>> 0).toString(16)}`;
}

const store = (ctx: any) => ctx.db.query("larderStore").withIndex("by_key", (q: any) => q.eq("key", "last")).unique();
const recordOf = (ctx: any, id: string) =>
  ctx.db.query("larderRecords").withIndex("by_record", (q: any) => q.eq("id", id)).unique();
export const rowOf = (ctx: any, id: string) =>
  ctx.db.query("files").withIndex("by_record", (q: any) => q.eq("id", id)).first();

// The next change number; the deployment's transactions are serial, so that it is the order of commits.
export async function nextChange(ctx: any) {
  const last = await store(ctx);
  if (last === null) throw new ConvexError({ code: "NOT_OPEN" });
  await ctx.db.patch(last._id, { change: last.change + 1 });
  return last.change + 1;
}

export async function save(ctx: any, old: any, record: any) {
  if (old === null) await ctx.db.insert("larderRecords", record);
  else await ctx.db.replace(old._id, record);
}

// A record that nobody wrote yet.
export const blank = (id: string, app: string, owner: string, path: string) => ({
  id,
  app,
  owner: owner === "" ? "shared" : owner,
  pathKey: pathKey(path),
  listed: false,
  change: 0,
  kind: "gone" as const,
  pieces: [],
  lastUpdatedMs: 0,
  createdAtMs: 0,
});

export function stripped(record: any) {
  const { _id, _creationTime, ...rest } = record;
  return rest;
}

// A record as it stands, and what was read for it: the row in `files` is the content, whoever wrote it.
async function shown(ctx: any, record: any, withContent: boolean) {
  const row = await rowOf(ctx, record.id);
  const answer: any = { id: record.id, change: record.change, version: record.version ?? null };
  answer.contentHash = record.contentHash ?? null;
  answer.mirroredChange = record.mirroredChange ?? null;
  answer.lastUpdatedMs = row === null ? record.lastUpdatedMs : Date.parse(row.last_updated) || 0;
  answer.createdAtMs = row === null ? record.createdAtMs : Date.parse(row.created_at) || 0;
  answer.pieces = record.kind === "chunks" ? record.pieces : [];
  answer.kind = row !== null ? "text" : record.kind === "chunks" ? "chunks" : "gone";
  answer.content = row !== null && withContent ? row.content : null;
  return { answer, chars: 300 + (row?.content.length ?? 0) };
}

export const open = mutation({
  args: who,
  handler: async (ctx, { secret }) => {
    admit(secret);
    const last = await store(ctx);
    if (last !== null) return last.instance;
    const id = await ctx.db.insert("larderStore", { key: "last", change: 0, instance: "" });
    const instance = `${id}`.replace(/[^A-Za-z0-9]/g, "") + Date.now().toString(36);
    await ctx.db.patch(id, { instance });
    return instance;
  },
});

// What names the deployment and its last change: all that a poll needs.
export const newest = query({
  args: who,
  handler: async (ctx, { secret }) => {
    admit(secret);
    const last = await store(ctx);
    return last === null ? null : { instance: last.instance, change: last.change };
  },
});

export const changes = query({
  args: { ...who, app: v.string(), owner: v.union(v.string(), v.null()), after: v.number(), limit: v.number(), withContent: v.boolean() },
  handler: async (ctx, { secret, app, owner, after, limit, withContent }) => {
    admit(secret, owner === null ? [] : [owner]);
    const last = await store(ctx);
    const rows: any[] = [];
    let [place, chars, seen] = [after, 0, 0];
    const changed = ctx.db.query("larderRecords").withIndex("by_change", (q: any) => q.eq("app", app).gt("change", after));
    for await (const record of changed) {
      // A page ends before the deployment's own bound on what one query reads.
      const full = rows.length === limit || chars > PAGE_CHARS || seen === PAGE_RECORDS;
      if (full) return { rows, place, more: true };
      seen += 1;
      if (owner === null || record.owner === owner) {
        const row = await shown(ctx, record, withContent);
        chars += row.chars;
        rows.push(row.answer);
      }
      place = record.change;
    }
    return { rows, place: last?.change ?? 0, more: false };
  },
});

export const paths = query({
  args: {
    ...who,
    app: v.string(),
    owner: v.union(v.string(), v.null()),
    prefix: v.string(),
    after: v.union(v.string(), v.null()),
    limit: v.number(),
    withContent: v.boolean(),
  },
  handler: async (ctx, { secret, app, owner, prefix, after, limit, withContent }) => {
    admit(secret, owner === null ? [] : [owner]);
    const low = pathKey(prefix);
    const passed = after === null ? null : pathKey(after);
    const range = (q: any) => {
      const from = passed !== null && passed >= low ? q.gt("pathKey", passed) : q.gte("pathKey", low);
      // `g` comes after every hexadecimal digit.
      return from.lt("pathKey", low + "g");
    };
    const index = (q: any) => range(owner === null ? q.eq("app", app).eq("listed", true) : q.eq("app", app).eq("listed", true).eq("owner", owner));
    const listing = ctx.db.query("larderRecords").withIndex(owner === null ? "by_path" : "by_owner_path", index);
    const rows: any[] = [];
    let [chars, last] = [0, ""];
    const end = (await store(ctx))?.change ?? 0;
    for await (const record of listing) {
      const full = rows.length >= limit || (rows.length > 0 && chars > PAGE_CHARS);
      if (full && record.pathKey !== last) return { rows, place: end, more: true };
      const row = await shown(ctx, record, withContent);
      if (row.answer.kind === "gone") continue;
      chars += row.chars;
      rows.push(row.answer);
      last = record.pathKey;
    }
    return { rows, place: end, more: false };
  },
});

export const get = query({
  args: { ...who, ids: v.array(v.string()) },
  handler: async (ctx, { secret, ids }) => {
    admit(secret);
    const rows: any[] = [];
    for (const id of ids) {
      const record = await recordOf(ctx, id);
      rows.push(record === null ? null : (await shown(ctx, record, true)).answer);
    }
    return rows;
  },
});

const pieceOf = (ctx: any, name: string) =>
  ctx.db.query("larderPieces").withIndex("by_name", (q: any) => q.eq("name", name)).first();

export const pieces = query({
  args: { ...who, names: v.array(v.string()) },
  handler: async (ctx, { secret, names }) => {
    admit(secret);
    const found: (string | null)[] = [];
    for (const name of names) {
      const piece = await pieceOf(ctx, name);
      found.push(piece === null ? null : ((await ctx.db.get(piece.chunk))?.data ?? null));
    }
    return found;
  },
});

// Pieces are there before a record names them; the same piece is put once.
export const putPieces = mutation({
  args: { ...who, id: v.string(), pieces: v.array(v.object({ name: v.string(), data: v.string() })) },
  handler: async (ctx, { secret, id, pieces }) => {
    admit(secret);
    for (const { name, data } of pieces) {
      const piece = await pieceOf(ctx, name);
      if (piece !== null) await ctx.db.patch(piece._id, { dropped: false });
      else await ctx.db.insert("larderPieces", { name, chunk: await ctx.db.insert("fileChunks", { id, data }), dropped: false });
    }
    return null;
  },
});

// Removes a few pieces that no record names any more. True if there are others.
export const tidy = mutation({
  args: who,
  handler: async (ctx, { secret }) => {
    admit(secret);
    const some = await ctx.db.query("larderPieces").withIndex("by_dropped", (q: any) => q.eq("dropped", true)).take(TIDY_PIECES);
    for (const piece of some) {
      await ctx.db.delete(piece.chunk);
      await ctx.db.delete(piece._id);
    }
    return some.length === TIDY_PIECES;
  },
});

const expectation = v.object({ absent: v.boolean(), change: v.number() });
const write = v.object({
  app: v.string(),
  owner: v.string(),
  path: v.string(),
  expected: expectation,
  kind: v.union(v.literal("delete"), v.literal("text"), v.literal("chunks")),
  text: v.optional(v.string()),
  keep: v.optional(v.number()),
  pieces: v.optional(v.array(v.object({ name: v.string(), sizes: v.array(v.number()) }))),
  version: v.optional(v.string()),
  contentHash: v.optional(v.string()),
  lastUpdatedMs: v.number(),
  createdAtMs: v.number(),
  lastUpdated: v.string(),
  createdAt: v.string(),
});

// Applies writes in order, each by itself: one that lost its race stops no other.
export const apply = mutation({
  args: { ...who, writes: v.array(write) },
  handler: async (ctx, { secret, writes }) => {
    admit(secret, writes.map((one) => one.owner));
    const answers: any[] = [];
    for (const one of writes) answers.push(await applyOne(ctx, one));
    return answers;
  },
});

async function applyOne(ctx: any, one: any) {
  const id = recordId(one.app, one.owner, one.path);
  const old = await recordOf(ctx, id);
  const row = await rowOf(ctx, id);
  const hasContent = row !== null || old?.kind === "chunks";
  const isThere = hasContent || old?.mirroredChange !== undefined;
  if (one.kind === "delete" && !isThere) return one.expected.absent ? { change: 0 } : { error: "NOT_FOUND" };
  if (one.expected.absent ? hasContent : one.expected.change !== (old?.change ?? 0)) {
    return { error: "CONFLICT", found: one.expected.absent ? "it is there already" : "it has changed since it was read" };
  }
  const before = old?.kind === "chunks" && row === null ? old.pieces : [];
  const kept = keptPieces(before, one.keep ?? 0);
  if (kept === null) return { error: "CONFLICT", found: "it has fewer chunks than are to be kept" };
  const pieces = one.kind === "chunks" ? [...kept, ...(one.pieces ?? [])] : [];
  for (const { name } of one.pieces ?? []) {
    const piece = await pieceOf(ctx, name);
    if (piece === null) return { error: "PIECES" };
    if (piece.dropped) await ctx.db.patch(piece._id, { dropped: false });
  }
  const named = new Set(pieces.map((piece: any) => piece.name));
  for (const { name } of old?.pieces ?? []) {
    const piece = named.has(name) ? null : await pieceOf(ctx, name);
    if (piece !== null) await ctx.db.patch(piece._id, { dropped: true });
  }
  const change = await nextChange(ctx);
  const record: any = { ...blank(id, one.app, one.owner, one.path), change, pieces };
  if (one.kind !== "delete") {
    Object.assign(record, { kind: one.kind, listed: true, lastUpdatedMs: one.lastUpdatedMs, createdAtMs: one.createdAtMs });
    if (one.version !== undefined) {
      Object.assign(record, { version: one.version, contentHash: one.contentHash, mirroredChange: change });
    }
  }
  if (one.kind === "text") {
    record.fingerprint = fingerprint(one.text);
    const fields = {
      id,
      path: one.path,
      content: one.text,
      app: one.app,
      owner_id: record.owner,
      last_updated: one.lastUpdated,
      created_at: one.createdAt,
    };
    if (row === null) await ctx.db.insert("files", fields);
    else await ctx.db.replace(row._id, fields);
  } else if (row !== null) {
    await ctx.db.delete(row._id);
  }
  await save(ctx, old, record);
  return { change };
}

// The pieces that hold the first `keep` chunks; `null` if there are fewer.
function keptPieces(pieces: any[], keep: number) {
  const kept: any[] = [];
  let left = keep;
  for (const piece of pieces) {
    if (left === 0) break;
    const sizes = piece.sizes.slice(0, left);
    left -= sizes.length;
    kept.push({ name: piece.name, sizes });
  }
  return left === 0 ? kept : null;
}

// Gives a change number to a row that somebody wrote or deleted past these functions, so that the feed tells it.
export async function note(ctx: any, app: string, owner: string, path: string) {
  const id = recordId(app, owner, path);
  const [old, row] = [await recordOf(ctx, id), await rowOf(ctx, id)];
  const now = row === null ? undefined : fingerprint(row.content);
  if ((old?.fingerprint ?? undefined) === now) return false;
  const record: any = old === null ? blank(id, app, owner, path) : stripped(old);
  record.change = await nextChange(ctx);
  record.fingerprint = now;
  record.listed = row !== null || record.kind === "chunks";
  await save(ctx, old, record);
  return true;
}

// Looks through a part of an app's rows, then of its records, for what was changed past these functions.
export const sweep = mutation({
  args: { ...who, app: v.string(), rows: v.boolean(), cursor: v.union(v.string(), v.null()) },
  handler: async (ctx, { secret, app, rows, cursor }) => {
    admit(secret);
    if (rows) {
      const page = { numItems: SWEEP_ROWS, cursor, maximumBytesRead: PAGE_CHARS };
      const found = await ctx.db.query("files").withIndex("by_app", (q: any) => q.eq("app", app)).paginate(page);
      for (const row of found.page) {
        const id = recordId(app, row.owner_id, row.path);
        // A row under another id is this file's all the same; one that was there already gives way to it.
        if (row.id !== id) {
          const twin = await rowOf(ctx, id);
          if (twin !== null) await ctx.db.delete(twin._id);
          await ctx.db.patch(row._id, { id });
        }
        await note(ctx, app, row.owner_id, row.path);
      }
      return { cursor: found.continueCursor, done: found.isDone };
    }
    // What one call may read is known only while it reads, so this goes on after the last path rather than by pages.
    const listed = (q: any) => q.eq("app", app).eq("listed", true).gt("pathKey", cursor ?? "");
    let [chars, seen, last] = [0, 0, cursor];
    for await (const record of ctx.db.query("larderRecords").withIndex("by_path", listed)) {
      if ((chars > PAGE_CHARS || seen >= SWEEP_ROWS) && record.pathKey !== last) return { cursor: last, done: false };
      [seen, last] = [seen + 1, record.pathKey];
      if (record.fingerprint === undefined) continue;
      const row = await rowOf(ctx, record.id);
      chars += row?.content.length ?? 0;
      if (row !== null) continue;
      const { fingerprint: _, ...rest } = stripped(record);
      rest.listed = rest.kind === "chunks";
      rest.change = await nextChange(ctx);
      await save(ctx, record, rest);
    }
    return { cursor: last, done: true };
  },
});

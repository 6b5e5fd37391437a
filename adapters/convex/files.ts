// For programs other than Larder: read and write the text files of a project, as rows. Guarded by the same secret.
import { mutationGeneric as mutation, queryGeneric as query } from "convex/server";
import { v } from "convex/values";
import { admit, blank, nextChange, recordId, rowOf, save, stripped, fingerprint } from "./larder";

const place = { secret: v.string(), app: v.string(), owner: v.optional(v.string()), path: v.string() };
const recordOf = (ctx: any, id: string) =>
  ctx.db.query("larderRecords").withIndex("by_record", (q: any) => q.eq("id", id)).unique();

export const get = query({
  args: place,
  handler: async (ctx, { secret, app, owner = "shared", path }) => {
    admit(secret, [owner]);
    return (await rowOf(ctx, recordId(app, owner, path)))?.content ?? null;
  },
});

// Tells Larder that the row changed, even if it changed back.
async function tell(ctx: any, app: string, owner: string, path: string, content?: string) {
  const id = recordId(app, owner, path);
  const old = await recordOf(ctx, id);
  const record: any = old === null ? blank(id, app, owner, path) : stripped(old);
  record.change = await nextChange(ctx);
  record.fingerprint = content === undefined ? undefined : fingerprint(content);
  record.listed = content !== undefined || record.kind === "chunks";
  await save(ctx, old, record);
}

export const put = mutation({
  args: { ...place, content: v.string() },
  handler: async (ctx, { secret, app, owner = "shared", path, content }) => {
    admit(secret, [owner]);
    const id = recordId(app, owner, path);
    const row = await rowOf(ctx, id);
    const now = new Date().toISOString();
    if (row === null) {
      await ctx.db.insert("files", { id, path, content, app, owner_id: owner, last_updated: now, created_at: now });
    } else {
      await ctx.db.patch(row._id, { content, last_updated: now });
    }
    await tell(ctx, app, owner, path, content);
    return null;
  },
});

export const remove = mutation({
  args: place,
  handler: async (ctx, { secret, app, owner = "shared", path }) => {
    admit(secret, [owner]);
    const row = await rowOf(ctx, recordId(app, owner, path));
    if (row === null) return false;
    await ctx.db.delete(row._id);
    await tell(ctx, app, owner, path);
    return true;
  },
});

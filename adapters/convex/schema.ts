// The tables that Larder keeps in a Convex deployment. `files` is for everybody; the others are Larder's own.
import { defineSchema, defineTable } from "convex/server";
import { v } from "convex/values";

export default defineSchema({
  // One row a text file, and nothing of Larder's.
  files: defineTable({
    id: v.string(),
    path: v.string(),
    content: v.string(),
    app: v.string(),
    owner_id: v.string(),
    last_updated: v.string(),
    created_at: v.string(),
  })
    .index("by_record", ["id"])
    .index("by_app", ["app"]),

  // What each record is, at which change; a deleted one stays, so that its end is told.
  larderRecords: defineTable({
    id: v.string(),
    app: v.string(),
    owner: v.string(),
    // The path's bytes in hexadecimal: it orders as bytes do, wherever texts order otherwise.
    pathKey: v.string(),
    listed: v.boolean(),
    change: v.number(),
    kind: v.union(v.literal("gone"), v.literal("text"), v.literal("chunks")),
    // Which ledger version the record projects, and the change by which it was written.
    version: v.optional(v.string()),
    contentHash: v.optional(v.string()),
    mirroredChange: v.optional(v.number()),
    // What the row was when it was told of last.
    fingerprint: v.optional(v.string()),
    pieces: v.array(v.object({ name: v.string(), sizes: v.array(v.number()) })),
    lastUpdatedMs: v.number(),
    createdAtMs: v.number(),
  })
    .index("by_record", ["id"])
    .index("by_change", ["app", "change"])
    .index("by_owner_path", ["app", "listed", "owner", "pathKey"])
    .index("by_path", ["app", "listed", "pathKey", "owner"]),

  // Contents that are no text, in pieces below the document limit, base64.
  fileChunks: defineTable({ id: v.string(), data: v.string() }),

  // Which pieces there are: small, so that a transaction can look at many. A dropped one is removed by `tidy`, or named again.
  larderPieces: defineTable({ name: v.string(), chunk: v.id("fileChunks"), dropped: v.boolean() })
    .index("by_name", ["name"])
    .index("by_dropped", ["dropped"]),

  // The last change number of the deployment, and what names it.
  larderStore: defineTable({ key: v.string(), change: v.number(), instance: v.string() }).index("by_key", ["key"]),
});

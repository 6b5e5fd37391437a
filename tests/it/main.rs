//! One test binary for what only the real program can show: the main job, peers, bad input, and death at any moment.
//!
//! Invariant: every test runs `larder` itself in folders of its own, with a home of its own, and waits for what it
//! expects with a deadline instead of for a time. What a machine cannot do is skipped aloud (`support::skip`).

mod azure;
mod bad_input;
mod bundle;
mod carrier;
mod convex;
#[path = "../../adapters/tests/servers/convex.rs"]
mod convex_server;
mod daemon;
mod errand;
mod firestore;
#[path = "../../adapters/tests/firestore_server/mod.rs"]
#[allow(dead_code, reason = "the adapter's own tests use the rest of it")]
mod firestore_server;
mod gcs;
mod gcs_server;
mod guardian;
mod http;
mod kill;
mod main_job;
mod netns;
mod origin;
mod peers;
mod postgres;
#[path = "../../adapters/tests/servers/postgres.rs"]
mod postgres_server;
mod repair;
mod rows;
mod s3;
mod silent;
#[path = "../../adapters/tests/servers/skip.rs"]
mod skipping;
mod supabase;
#[path = "../../adapters/tests/servers/supabase.rs"]
mod supabase_server;
mod support;
mod thin_line;
mod tidy;
mod tracer;
mod view;

//! The tables, the triggers that number what other programs write, and making all of it once.
//!
//! `files` holds seven columns and nothing of ours. Every record that ever was has one line in `file_mirror`: the number and the
//! transaction of its newest change, and, if we wrote last, which versions it projects. A record's name is computed from
//! (app, owner_id, path); a row with another id is renamed by its trigger, and if that name is taken the row written last stands.
//! Invariant: every lock is taken in one order, the row of `files` before its line, by us and by every other program.
//! Deliberately absent: the setting `larder.writes` outside our own transactions; it keeps the triggers from counting twice.

use tokio_postgres::Client;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::Type;

use super::failure::Failure;
use crate::ErrorKind;

const VERSION: u32 = 1;
/// 13 brought the 64-bit names of transactions that the change feed stands on.
const OLDEST_SERVER: i32 = 130_000;
/// Drawn once; whoever makes the schema holds it.
const LOCK: i64 = 0x6c61_7264_6572_0001;
/// What an index of the server can hold, less its overhead; a longer name is no record of ours.
pub(crate) const MAX_ID_BYTES: usize = 2_600;

/// What a session knows of its database.
#[derive(Clone, Debug, Default)]
pub(super) struct Facts {
    /// Names this very database; changes when it was restored somewhere else.
    pub instance: String,
    /// How the two moments of `files` are written and read.
    pub moments: Moments,
}

/// The types of `last_updated` and `created_at`: a table that was there before may keep texts.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Moments {
    pub last_updated: Moment,
    pub created_at: Moment,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Moment {
    #[default]
    Zoned,
    Plain,
    Text,
}

impl Moment {
    fn of(type_name: &str) -> Option<Moment> {
        match type_name {
            "timestamp with time zone" => Some(Moment::Zoned),
            "timestamp without time zone" => Some(Moment::Plain),
            "text" | "character varying" => Some(Moment::Text),
            _ => None,
        }
    }

    /// A text in RFC 3339, as the column takes it.
    pub fn written(self, text: &str) -> String {
        match self {
            Moment::Zoned => format!("{text}::timestamptz"),
            Moment::Plain => format!("({text}::timestamptz AT TIME ZONE 'UTC')"),
            Moment::Text => text.to_owned(),
        }
    }

    /// The column as a text that `stamp::parse` reads: milliseconds, unless it is a text already.
    pub fn read(self, column: &str) -> String {
        match self {
            Moment::Zoned => {
                format!("CASE WHEN isfinite({column}) THEN (extract(epoch FROM {column}) * 1000)::bigint::text END")
            }
            Moment::Plain => Moment::Zoned.read(&format!("({column} AT TIME ZONE 'UTC')")),
            Moment::Text => column.to_owned(),
        }
    }
}

const TABLES: &str = r#"
CREATE TABLE IF NOT EXISTS files (
    id text PRIMARY KEY,
    path text,
    content text,
    app text,
    owner_id text DEFAULT 'shared',
    last_updated timestamptz DEFAULT now(),
    created_at timestamptz DEFAULT now()
);

-- The newest change of each record and, if Larder wrote last, which ledger versions it projects (revision = n then).
CREATE TABLE file_mirror (
    id text COLLATE "C" PRIMARY KEY,
    n bigint NOT NULL,
    xid xid8 NOT NULL,
    revision bigint,
    version text,
    content_hash bytea
);
CREATE INDEX file_mirror_changes ON file_mirror (xid, n);
CREATE SEQUENCE file_changes_n;

-- Contents that are no text row: one line a record, its bytes in file_chunks.
CREATE TABLE file_chunked (
    id text COLLATE "C" PRIMARY KEY,
    path text NOT NULL,
    app text NOT NULL,
    owner_id text NOT NULL,
    chunk_count bigint NOT NULL,
    size_bytes bigint NOT NULL,
    last_updated timestamptz NOT NULL,
    created_at timestamptz NOT NULL
);
CREATE TABLE file_chunks (
    id text COLLATE "C" NOT NULL,
    n bigint NOT NULL,
    bytes bytea NOT NULL,
    PRIMARY KEY (id, n)
);
-- Most of it is compressed already.
ALTER TABLE file_chunks ALTER COLUMN bytes SET STORAGE EXTERNAL;

CREATE TABLE file_store (key text PRIMARY KEY, value text NOT NULL);
INSERT INTO file_store (key, value) VALUES
    ('schema', '1'),
    ('instance', substr(md5(random()::text || clock_timestamp()::text || pg_backend_pid()::text), 1, 8))
    ON CONFLICT (key) DO NOTHING;

CREATE VIEW files_all AS
    SELECT id, path, content, app, owner_id, last_updated, created_at, NULL::bigint AS chunk_count, NULL::bigint AS size_bytes
    FROM files
    UNION ALL
    SELECT k.id, k.path, NULL, k.app, k.owner_id, LAST_UPDATED, CREATED_AT, k.chunk_count, k.size_bytes
    FROM file_chunked AS k
    WHERE EXISTS (SELECT 1 FROM file_mirror AS m WHERE m.id = k.id AND m.version IS NOT NULL)
        AND NOT EXISTS (SELECT 1 FROM files AS f WHERE f.id = k.id COLLATE "default");
"#;

const TRIGGERS: &str = r#"
CREATE FUNCTION larder_file_id(app text, owner_id text, path text, given text) RETURNS text
LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
    named text := replace(replace(app, '%', '%25'), ':', '%3A') || ':'
        || CASE WHEN coalesce(owner_id, '') NOT IN ('', 'shared') THEN replace(replace(owner_id, '%', '%25'), ':', '%3A') || ':'
            WHEN strpos(path, ':') > 0 THEN 'shared:' ELSE '' END
        || path;
BEGIN
    RETURN CASE WHEN octet_length(named) <= MAX_ID_BYTES THEN named ELSE given END;
END $$;

CREATE FUNCTION larder_note(record text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = SCHEMA, pg_temp AS $$
BEGIN
    IF octet_length(record) > MAX_ID_BYTES THEN
        RETURN;
    END IF;
    INSERT INTO file_mirror AS m (id, n, xid) VALUES (record, nextval('file_changes_n'), pg_current_xact_id())
        ON CONFLICT (id) DO UPDATE SET n = excluded.n, xid = excluded.xid;
    PERFORM pg_notify('larder', left(split_part(record, ':', 1), 1000));
END $$;
REVOKE EXECUTE ON FUNCTION larder_note(text) FROM PUBLIC;

CREATE FUNCTION larder_files_named() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = SCHEMA, pg_temp AS $$
DECLARE
    named text := larder_file_id(NEW.app, NEW.owner_id, NEW.path, NEW.id);
BEGIN
    IF named IS NOT NULL AND NEW.id IS DISTINCT FROM named THEN
        IF TG_OP = 'INSERT' THEN
            DELETE FROM files WHERE id = named;
        ELSE
            DELETE FROM files WHERE id = named AND id <> OLD.id;
        END IF;
        NEW.id := named;
    END IF;
    RETURN NEW;
END $$;

CREATE FUNCTION larder_files_noted() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = SCHEMA, pg_temp AS $$
BEGIN
    IF TG_OP = 'DELETE' OR (TG_OP = 'UPDATE' AND OLD.id <> NEW.id) THEN
        PERFORM larder_note(OLD.id);
    END IF;
    IF TG_OP <> 'DELETE' THEN
        PERFORM larder_note(NEW.id);
    END IF;
    RETURN NULL;
END $$;

CREATE FUNCTION larder_files_emptied() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = SCHEMA, pg_temp AS $$
BEGIN
    PERFORM larder_note(id) FROM files;
    RETURN NULL;
END $$;

CREATE TRIGGER larder_named BEFORE INSERT OR UPDATE ON files FOR EACH ROW
    WHEN (current_setting('larder.writes', true) IS DISTINCT FROM 'on') EXECUTE FUNCTION larder_files_named();
CREATE TRIGGER larder_noted AFTER INSERT OR UPDATE OR DELETE ON files FOR EACH ROW
    WHEN (current_setting('larder.writes', true) IS DISTINCT FROM 'on') EXECUTE FUNCTION larder_files_noted();
CREATE TRIGGER larder_emptied BEFORE TRUNCATE ON files FOR EACH STATEMENT EXECUTE FUNCTION larder_files_emptied();
"#;

/// Every statement of the newest schema, for an owner who lets nobody else make tables.
pub(super) fn ddl() -> String {
    let rights = "
-- For a role that only reads and writes rows, in place of NAME:
-- GRANT SELECT, INSERT, UPDATE, DELETE ON files, file_mirror, file_chunked, file_chunks, file_store TO NAME;
-- GRANT SELECT ON files_all TO NAME;
-- GRANT USAGE ON SEQUENCE file_changes_n TO NAME;
";
    format!("BEGIN;\n{}{rights}COMMIT;\n", statements("public", Moments::default()))
}

pub(crate) fn statements(schema: &str, moments: Moments) -> String {
    let quoted = format!("\"{}\"", schema.replace('"', "\"\""));
    // A view's columns have one type each, and `files` may have been there before.
    let column = |name: &str, moment: Moment| match moment {
        Moment::Zoned => format!("k.{name}"),
        Moment::Plain => format!("k.{name} AT TIME ZONE 'UTC'"),
        Moment::Text => format!("to_char(k.{name} AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.MS\"Z\"')"),
    };
    let tables = TABLES
        .replace("LAST_UPDATED", &column("last_updated", moments.last_updated))
        .replace("CREATED_AT", &column("created_at", moments.created_at));
    let triggers = TRIGGERS.replace("MAX_ID_BYTES", &MAX_ID_BYTES.to_string()).replace("SCHEMA", &quoted);
    format!("{tables}{triggers}")
}

/// Looks at the server, makes the schema where it is missing, and tells what a session has to know.
///
/// Safe under several starters; a database that is up to date is only read.
pub(super) async fn ensure(client: &Client) -> Result<Facts, Failure> {
    check_server(client).await?;
    match standing(client).await? {
        Standing::Missing => make(client).await?,
        Standing::Here => {}
    }
    let Some(moments) = moments(client).await? else {
        let gone: bool = client.query_typed_one("SELECT to_regclass('files') IS NULL", &[]).await?.get(0);
        return Err(if gone {
            in_part("the table files is missing")
        } else {
            Failure::new(ErrorKind::Unsupported, OTHER_TABLE)
        });
    };
    check_rights(client).await?;
    Ok(Facts { instance: instance(client).await?, moments })
}

async fn check_server(client: &Client) -> Result<(), Failure> {
    let asked = "SELECT current_setting('server_version_num')::int, current_setting('server_encoding'),
        pg_is_in_recovery(), current_schema() IS NULL";
    let row = client.query_typed_one(asked, &[]).await?;
    let unsupported = |why: String| Err(Failure::new(ErrorKind::Unsupported, why));
    let (version, encoding): (i32, String) = (row.get(0), row.get(1));
    if version < OLDEST_SERVER {
        return unsupported(format!("it is PostgreSQL {}, and 13 is needed", version / 10_000));
    }
    if encoding != "UTF8" {
        return unsupported(format!("the database's encoding is {encoding}; make one with UTF8"));
    }
    if row.get(2) {
        return Err(Failure::new(ErrorKind::Denied, "it is a standby and may only be read; name the primary"));
    }
    if row.get(3) {
        return unsupported("no schema of its search path is there".to_owned());
    }
    Ok(())
}

enum Standing {
    Missing,
    Here,
}

async fn standing(client: &Client) -> Result<Standing, Failure> {
    // Read from the table of tables, not from what the server remembers: somebody may have made it while we waited.
    let there = "SELECT EXISTS (SELECT 1 FROM pg_class WHERE relname = 'file_store' AND pg_table_is_visible(oid))";
    let has_store: bool = client.query_typed_one(there, &[]).await?.get(0);
    if !has_store {
        return Ok(Standing::Missing);
    }
    let row = client.query_typed_opt("SELECT value FROM file_store WHERE key = 'schema'", &[]).await?;
    let version = row.and_then(|row| row.get::<_, String>(0).parse::<u32>().ok());
    match version {
        Some(VERSION) => Ok(Standing::Here),
        Some(newer) if VERSION < newer => {
            Err(Failure::new(ErrorKind::Corrupt, "a newer release made its tables; upgrade this one"))
        }
        _ => {
            Err(Failure::new(ErrorKind::Corrupt, "its table `file_store` is not as expected; is it another program's?"))
        }
    }
}

/// A part of the schema is gone: which, and the statement after which all of it is made anew. What `ddl` prints would meet what is left.
pub(super) fn in_part(said: &str) -> Failure {
    let why = format!(
        "a part of Larder's own tables is there and a part is not ({said}); after `{DROP}`, which leaves `files` and its rows, the next run makes all of it anew, or, for a role that may make no tables, its owner by what `larder backend ddl postgres` prints"
    );
    Failure::new(ErrorKind::Corrupt, why)
}

/// Takes away everything that is Larder's alone. It is a mirror: what stood in it comes back from the machines that mirror into it.
const DROP: &str = "DROP VIEW IF EXISTS files_all; DROP TABLE IF EXISTS file_mirror, file_chunked, file_chunks, file_store CASCADE; DROP SEQUENCE IF EXISTS file_changes_n CASCADE; DROP FUNCTION IF EXISTS larder_file_id, larder_note, larder_files_named, larder_files_noted, larder_files_emptied CASCADE;";

const OTHER_NAME: &str = "another program uses a name that Larder needs; name another database, or a schema of its own in `options=-csearch_path=NAME`";

const OTHER_TABLE: &str = "it holds another program's table `files`; name another database, or a schema of its own in `options=-csearch_path=NAME`";

/// One transaction under a lock that every starter takes; whoever waited for it finds everything made.
async fn make(client: &Client) -> Result<(), Failure> {
    client.batch_execute(&format!("BEGIN; SELECT pg_advisory_xact_lock({LOCK})")).await?;
    let made = make_locked(client).await;
    match made {
        Ok(()) => Ok(client.batch_execute("COMMIT").await?),
        Err(failure) => {
            // The connection may be gone, and then so is the transaction.
            let _ = client.batch_execute("ROLLBACK").await;
            Err(failure)
        }
    }
}

async fn make_locked(client: &Client) -> Result<(), Failure> {
    if matches!(standing(client).await?, Standing::Here) {
        return Ok(());
    }
    let schema: String = client.query_typed_one("SELECT current_schema()", &[]).await?.get(0);
    let adopted: bool = client.query_typed_one("SELECT to_regclass('files') IS NOT NULL", &[]).await?.get(0);
    let moments = if adopted { check_adopted(client).await? } else { Moments::default() };
    // A name that is taken is another program's, unless what only Larder makes is there too.
    let begun: bool =
        client.query_typed_one("SELECT to_regprocedure('larder_note(text)') IS NOT NULL", &[]).await?.get(0);
    client.batch_execute(&statements(&schema, moments)).await.map_err(|error| {
        let is_there = |code: &SqlState| {
            [SqlState::DUPLICATE_TABLE, SqlState::DUPLICATE_FUNCTION, SqlState::DUPLICATE_OBJECT].contains(code)
        };
        match error.as_db_error() {
            Some(said) if is_there(said.code()) && begun => in_part(said.message()),
            Some(said) if is_there(said.code()) => {
                Failure::new(ErrorKind::Unsupported, format!("{} ({})", OTHER_NAME, said.message()))
            }
            _ => error.into(),
        }
    })?;
    if adopted {
        // Names what has another name, and gives each row its first change.
        client.batch_execute("UPDATE files SET path = path").await?;
    }
    Ok(())
}

/// A `files` table of another tool is taken over with its rows, if it is the table that tools of this family share.
async fn check_adopted(client: &Client) -> Result<Moments, Failure> {
    let unsupported = |why: String| Failure::new(ErrorKind::Unsupported, why);
    let moments = moments(client).await?.ok_or_else(|| unsupported(OTHER_TABLE.to_owned()))?;
    let twins = "SELECT path FROM files WHERE path IS NOT NULL AND app IS NOT NULL
        GROUP BY app, coalesce(nullif(owner_id, ''), 'shared'), path HAVING count(*) > 1 LIMIT 1";
    if let Some(row) = client.query_typed_opt(twins, &[]).await? {
        let path: String = row.get(0);
        return Err(unsupported(format!("its table `files` has several rows for {path}; keep one of them")));
    }
    Ok(moments)
}

/// How the table keeps moments; `None` if it is not the table of seven columns with `id` as its key.
async fn moments(client: &Client) -> Result<Option<Moments>, Failure> {
    let asked = "SELECT a.attname::text, format_type(a.atttypid, NULL)::text,
            EXISTS (SELECT 1 FROM pg_index AS i WHERE i.indrelid = a.attrelid AND i.indisprimary AND i.indkey[0] = a.attnum
                AND i.indnkeyatts = 1)
        FROM pg_attribute AS a JOIN pg_class AS c ON c.oid = a.attrelid
        WHERE a.attrelid = to_regclass('files') AND c.relkind IN ('r', 'p') AND a.attnum > 0 AND NOT a.attisdropped";
    let (mut moments, mut texts, mut dates) = (Moments::default(), 0, 0);
    for row in client.query_typed(asked, &[]).await? {
        let (name, kind, is_key): (String, String, bool) = (row.get(0), row.get(1), row.get(2));
        match name.as_str() {
            "id" if !is_key => return Ok(None),
            "id" | "path" | "content" | "app" | "owner_id" => {
                texts += u32::from(matches!(kind.as_str(), "text" | "character varying"));
            }
            "last_updated" | "created_at" => {
                let Some(moment) = Moment::of(&kind) else { return Ok(None) };
                dates += 1;
                if name == "created_at" { moments.created_at = moment } else { moments.last_updated = moment }
            }
            _ => {}
        }
    }
    Ok(((texts, dates) == (5, 2)).then_some(moments))
}

/// Says at once what a first write would say later.
async fn check_rights(client: &Client) -> Result<(), Failure> {
    let asked = "SELECT name, to_regclass(name) IS NULL
        FROM unnest(ARRAY['files', 'file_mirror', 'file_chunked', 'file_chunks', 'file_store']) AS name
        WHERE to_regclass(name) IS NULL
            OR NOT (has_table_privilege(name, 'SELECT') AND has_table_privilege(name, 'INSERT')
                AND has_table_privilege(name, 'UPDATE') AND has_table_privilege(name, 'DELETE'))
        LIMIT 1";
    let way = "`larder backend ddl postgres` prints what its owner has to run";
    if let Some(row) = client.query_typed_opt(asked, &[]).await? {
        let (table, is_missing): (String, bool) = (row.get(0), row.get(1));
        return Err(if is_missing {
            in_part(&format!("the table {table} is missing"))
        } else {
            Failure::new(ErrorKind::Denied, format!("the role may not read and write the table {table}; {way}"))
        });
    }
    let asked = "SELECT name, t.tgname IS NULL
        FROM unnest(ARRAY['larder_named', 'larder_noted', 'larder_emptied']) AS name
        LEFT JOIN pg_trigger AS t ON t.tgrelid = to_regclass('files') AND t.tgname = name
        WHERE t.tgenabled IS NULL OR t.tgenabled NOT IN ('O', 'A')
        LIMIT 1";
    let Some(row) = client.query_typed_opt(asked, &[]).await? else { return Ok(()) };
    let (trigger, is_missing): (String, bool) = (row.get(0), row.get(1));
    if is_missing {
        return Err(in_part(&format!("the trigger {trigger} on files is missing, so edits of others would be missed")));
    }
    let why = format!(
        "the trigger {trigger} on files is switched off, so edits of others would be missed; its owner runs `ALTER TABLE files ENABLE TRIGGER {trigger}`"
    );
    Err(Failure::new(ErrorKind::Corrupt, why))
}

/// The name of this database. One that was restored from a dump, or by another server, gets a new one, and its changes are
/// numbered anew: the names of transactions that its lines hold are another server's.
async fn instance(client: &Client) -> Result<String, Failure> {
    let home = home(client).await?;
    let asked = "SELECT (SELECT value FROM file_store WHERE key = 'instance'), (SELECT value FROM file_store WHERE key = 'home')";
    let row = client.query_typed_one(asked, &[]).await?;
    let (instance, known): (Option<String>, Option<String>) = (row.get(0), row.get(1));
    match (instance, known) {
        (Some(instance), Some(known)) if known == home => return Ok(instance),
        _ => {}
    }
    client.batch_execute(&format!("BEGIN; SELECT pg_advisory_xact_lock({LOCK})")).await?;
    let moved = move_in(client, &home).await;
    let end = if moved.is_ok() { "COMMIT" } else { "ROLLBACK" };
    client.batch_execute(end).await?;
    moved
}

async fn move_in(client: &Client, home: &str) -> Result<String, Failure> {
    let known = client.query_typed_opt("SELECT value FROM file_store WHERE key = 'home'", &[]).await?;
    if let Some(known) = known.map(|row| row.get::<_, String>(0))
        && known != home
    {
        client.batch_execute("UPDATE file_mirror SET xid = pg_current_xact_id()").await?;
        let renew = "UPDATE file_store SET value = substr(md5(random()::text || clock_timestamp()::text), 1, 8) WHERE key = 'instance'";
        client.batch_execute(renew).await?;
    }
    let keep = "INSERT INTO file_store (key, value) VALUES ('home', $1) ON CONFLICT (key) DO UPDATE SET value = excluded.value";
    client.execute_typed(keep, &[(&home, Type::TEXT)]).await?;
    let instance = client.query_typed_opt("SELECT value FROM file_store WHERE key = 'instance'", &[]).await?;
    let missing = || Failure::new(ErrorKind::Corrupt, "its table `file_store` has lost the name of the database");
    Ok(instance.ok_or_else(missing)?.get(0))
}

/// Which server, history and database this is, as far as the role may know.
async fn home(client: &Client) -> Result<String, Failure> {
    let database = "SELECT (SELECT oid::text FROM pg_database WHERE datname = current_database()) || '/' || to_regclass('file_mirror')::oid::text,
        has_function_privilege('pg_control_system()', 'EXECUTE'),
        has_function_privilege('pg_walfile_name(pg_lsn)', 'EXECUTE')
            AND has_function_privilege('pg_current_wal_lsn()', 'EXECUTE')";
    let row = client.query_typed_one(database, &[]).await?;
    let mut home: String = row.get(0);
    if row.get(1) {
        let server = "SELECT system_identifier::text FROM pg_control_system()";
        home = format!("{}/{home}", client.query_typed_one(server, &[]).await?.get::<_, String>(0));
    }
    if row.get(2) {
        // A standby that was promoted goes on in a history of its own, and may have lost the newest transactions.
        let history = "SELECT substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8)";
        home = format!("{home}/{}", client.query_typed_one(history, &[]).await?.get::<_, String>(0));
    }
    Ok(home)
}

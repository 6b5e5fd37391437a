//! What a Supabase project needs: the tables and triggers of `postgres`, row level security, and functions to reach them by.
//!
//! PostgREST runs one statement a request, so what must be atomic is a function. Functions run with the caller's rights (row level security
//! holds inside them), but for those that read ranges, which ask the same rule themselves, and those that only number changes. They answer JSON, which no row cap shortens.
//! Invariant: with nobody's token only shared rows are seen and written; a private row by its owner alone. What is printed may be run again:
//! it makes what is missing and takes away no content. A line whose content was lost with its table goes, since it would read as a deletion.

use crate::postgres::schema::{MAX_ID_BYTES, Moments, statements};

/// The version of what stands below; a service that tells a higher one is refused.
pub(super) const VERSION: u32 = 1;

/// Every statement, for the SQL editor of the project.
pub(super) fn ddl() -> String {
    let tables = statements("public", Moments::default());
    let api = API.replace("VERSION", &VERSION.to_string()).replace("MAX_ID_BYTES", &MAX_ID_BYTES.to_string());
    let made = again(&format!("{tables}{RULES}{api}"));
    format!("BEGIN;\n{BEFORE}{made}{RIGHTS}{AFTER}COMMIT;\n")
}

/// The same statements, which leave alone what is there, or put themselves in its place where that holds nothing.
fn again(statements: &str) -> String {
    let kinds = [
        ("TABLE file_", "TABLE IF NOT EXISTS file_"),
        ("INDEX ", "INDEX IF NOT EXISTS "),
        ("SEQUENCE ", "SEQUENCE IF NOT EXISTS "),
        ("VIEW ", "OR REPLACE VIEW "),
        ("FUNCTION ", "OR REPLACE FUNCTION "),
        ("TRIGGER ", "OR REPLACE TRIGGER "),
    ];
    kinds.iter().fold(statements.to_owned(), |text, (once, again)| {
        text.replace(&format!("\nCREATE {once}"), &format!("\nCREATE {again}"))
    })
}

/// Whether all that holds something, or numbers it, is there already.
const BEFORE: &str = r#"
-- This may be run again: it makes what is missing and leaves what is there.
DO $$
BEGIN
    PERFORM set_config('larder.was_whole', (
        (SELECT bool_and(to_regclass('public.' || name) IS NOT NULL)
            FROM unnest(ARRAY['files', 'file_mirror', 'file_chunked', 'file_chunks', 'file_store', 'file_changes_n']) AS name)
        AND (SELECT count(*) FROM pg_trigger WHERE tgrelid = to_regclass('public.files') AND tgenabled IN ('O', 'A')
            AND tgname IN ('larder_named', 'larder_noted', 'larder_emptied')) = 3)::text, true);
END $$;
"#;

/// Where something was missing: no line without its content, a number for each content, and another name for all of it, by which
/// machines know that what they remember of it is worth nothing.
const AFTER: &str = r#"
DO $$
BEGIN
    IF current_setting('larder.was_whole') = 'true' THEN
        RETURN;
    END IF;
    DELETE FROM file_chunked AS k WHERE k.chunk_count <> (SELECT count(*) FROM file_chunks AS c WHERE c.id = k.id);
    DELETE FROM file_chunks AS c WHERE NOT EXISTS (SELECT 1 FROM file_chunked AS k WHERE k.id = c.id);
    -- Without its content a line would read as a deletion.
    DELETE FROM file_mirror AS m WHERE NOT EXISTS (SELECT 1 FROM file_chunked AS k WHERE k.id = m.id)
        AND NOT EXISTS (SELECT 1 FROM files AS f WHERE f.id = m.id COLLATE "default");
    PERFORM setval('file_changes_n', greatest(nextval('file_changes_n'), (SELECT coalesce(max(n), 0) + 1 FROM file_mirror)));
    -- Rows and contents that were there before get a number.
    UPDATE files SET path = path;
    PERFORM larder_note(k.id) FROM file_chunked AS k WHERE NOT EXISTS (SELECT 1 FROM file_mirror AS m WHERE m.id = k.id);
    DELETE FROM file_store WHERE key IN ('api_home', 'api_instance');
END $$;
"#;

const RULES: &str = r#"
-- Whose the request is: the claim `larder_owner` of its token, else the token's subject; nobody without a token.
CREATE FUNCTION larder_owner() RETURNS text LANGUAGE sql STABLE AS $$
    SELECT coalesce(claims ->> 'larder_owner', claims ->> 'sub')
    FROM (SELECT nullif(current_setting('request.jwt.claims', true), '')::jsonb AS claims) AS token
$$;

CREATE FUNCTION larder_may(owner text) RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT coalesce(owner, '') IN ('', 'shared') OR owner = larder_owner()
        OR (length(owner) > 9 AND left(owner, -9) = 'u-' || larder_owner())
$$;

CREATE FUNCTION larder_owner_of(record text) RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE WHEN strpos(rest, ':') > 0
        THEN replace(replace(split_part(rest, ':', 1), '%3A', ':'), '%25', '%') ELSE 'shared' END
    FROM (SELECT substr(record, strpos(record, ':') + 1) AS rest) AS name
$$;

ALTER TABLE files ENABLE ROW LEVEL SECURITY;
ALTER TABLE file_mirror ENABLE ROW LEVEL SECURITY;
ALTER TABLE file_chunked ENABLE ROW LEVEL SECURITY;
ALTER TABLE file_chunks ENABLE ROW LEVEL SECURITY;
ALTER TABLE file_store ENABLE ROW LEVEL SECURITY;
DROP POLICY IF EXISTS larder ON files;
CREATE POLICY larder ON files FOR ALL USING (larder_may(owner_id)) WITH CHECK (larder_may(owner_id));
DROP POLICY IF EXISTS larder ON file_mirror;
CREATE POLICY larder ON file_mirror FOR ALL USING (larder_may(larder_owner_of(id))) WITH CHECK (larder_may(larder_owner_of(id)));
DROP POLICY IF EXISTS larder ON file_chunked;
CREATE POLICY larder ON file_chunked FOR ALL USING (larder_may(owner_id)) WITH CHECK (larder_may(owner_id));
DROP POLICY IF EXISTS larder ON file_chunks;
CREATE POLICY larder ON file_chunks FOR ALL USING (larder_may(larder_owner_of(id))) WITH CHECK (larder_may(larder_owner_of(id)));
-- A view would look with its maker's eyes.
ALTER VIEW files_all SET (security_invoker = true);
"#;

const API: &str = r#"
CREATE FUNCTION larder_hello() RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    home text := (SELECT oid::text FROM pg_database WHERE datname = current_database()) || '/' || 'public.file_mirror'::regclass::oid::text;
    claims jsonb := nullif(current_setting('request.jwt.claims', true), '')::jsonb;
BEGIN
    BEGIN
        home := home || '/' || (SELECT system_identifier::text FROM pg_control_system());
    EXCEPTION WHEN insufficient_privilege THEN
        NULL;
    END;
    IF (SELECT value FROM file_store WHERE key = 'api_home') IS DISTINCT FROM home THEN
        PERFORM pg_advisory_xact_lock(7809911847906181121);
        IF (SELECT value FROM file_store WHERE key = 'api_home') IS DISTINCT FROM home THEN
            -- Restored from a dump: the names of transactions in its lines are another server's.
            UPDATE file_mirror SET xid = pg_current_xact_id();
            INSERT INTO file_store (key, value) VALUES ('api_home', home),
                ('api_instance', substr(md5(random()::text || clock_timestamp()::text), 1, 8))
                ON CONFLICT (key) DO UPDATE SET value = excluded.value;
        END IF;
    END IF;
    RETURN jsonb_build_object('api', VERSION, 'instance', (SELECT value FROM file_store WHERE key = 'api_instance'),
        'owner', coalesce(claims ->> 'larder_owner', claims ->> 'sub'),
        'triggers', (SELECT count(*) FROM pg_trigger WHERE tgrelid = 'public.files'::regclass AND tgenabled IN ('O', 'A')
            AND tgname IN ('larder_named', 'larder_noted', 'larder_emptied')));
END $$;

CREATE FUNCTION larder_record(record text, texts boolean) RETURNS jsonb LANGUAGE sql STABLE AS $$
    SELECT jsonb_build_object('id', m.id, 'xid', m.xid::text, 'n', m.n::text, 'revision', m.revision::text, 'version', m.version,
        'hash', encode(m.content_hash, 'hex'), 'is_text', f.id IS NOT NULL, 'size', octet_length(f.content),
        'content', CASE WHEN texts AND octet_length(f.content) <= 8388608 THEN f.content END,
        'updated', coalesce(to_jsonb(f.last_updated), to_jsonb(k.last_updated)) #>> '{}',
        'created', coalesce(to_jsonb(f.created_at), to_jsonb(k.created_at)) #>> '{}',
        'chunk_count', k.chunk_count, 'size_bytes', k.size_bytes)
    FROM file_mirror AS m
    LEFT JOIN files AS f ON f.id = m.id COLLATE "default"
    LEFT JOIN file_chunked AS k ON k.id = m.id
    WHERE m.id = record
$$;

CREATE FUNCTION larder_rows(ids text[], texts boolean) RETURNS jsonb LANGUAGE sql STABLE AS $$
    SELECT coalesce(jsonb_agg(larder_record(x.id, texts) ORDER BY x.at), '[]') FROM unnest(ids) WITH ORDINALITY AS x (id, at)
$$;

-- Row level security keeps the planner from an index on anything but equality, so the functions that read ranges look with their maker's
-- eyes and ask `larder_may` themselves.
-- What no snapshot `since` saw and `until` saw, after a transaction's number: see the documentation of the cursor.
CREATE FUNCTION larder_changes(low text, high text, nested text, since text, until text, after_xid text, after_n text, most int, texts boolean)
RETURNS jsonb LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    found jsonb;
    place xid8 := coalesce(after_xid, '0')::xid8;
    number bigint := coalesce(after_n, '0')::bigint;
BEGIN
    IF pg_snapshot_xmax(coalesce(until, since)::pg_snapshot) > pg_snapshot_xmax(pg_current_snapshot()) THEN
        RETURN jsonb_build_object('unknown', true);
    END IF;
    IF since IS NULL THEN
        SELECT jsonb_agg(jsonb_build_array(s.id, s.xid::text, s.n::text) ORDER BY s.xid, s.n) INTO found FROM (
            SELECT m.id, m.xid, m.n FROM file_mirror AS m
            WHERE (m.xid, m.n) > (place, number) AND (until IS NULL OR pg_visible_in_snapshot(m.xid, until::pg_snapshot))
                AND (m.id || '') >= low AND (m.id || '') < high
                AND larder_may(larder_owner_of(m.id))
                AND (nested IS NULL OR strpos(substr(m.id, length(low) + 1), ':') = 0 OR left(m.id, length(nested)) = nested)
            ORDER BY m.xid, m.n LIMIT most + 1) AS s;
    ELSE
        SELECT jsonb_agg(jsonb_build_array(s.id, s.xid::text, s.n::text) ORDER BY s.xid, s.n) INTO found FROM (
            SELECT m.id, m.xid, m.n FROM file_mirror AS m
            WHERE m.xid >= split_part(since, ':', 1)::xid8 AND NOT pg_visible_in_snapshot(m.xid, since::pg_snapshot)
                AND (m.xid, m.n) > (place, number) AND (until IS NULL OR pg_visible_in_snapshot(m.xid, until::pg_snapshot))
                AND (m.id || '') >= low AND (m.id || '') < high
                AND larder_may(larder_owner_of(m.id))
                AND (nested IS NULL OR strpos(substr(m.id, length(low) + 1), ':') = 0 OR left(m.id, length(nested)) = nested)
            ORDER BY m.xid, m.n LIMIT most + 1) AS s;
    END IF;
    RETURN jsonb_build_object('seen', pg_current_snapshot()::text,
        'instance', coalesce((SELECT value FROM file_store WHERE key = 'api_instance'), '')) || (
        -- An answer has a size: it ends before the row that would be too much, but never before the first.
        SELECT jsonb_build_object('more', count(*) > count(*) FILTER (WHERE is_told),
            'rows', coalesce(jsonb_agg(larder_record(sized.id, texts) ORDER BY sized.at) FILTER (WHERE is_told), '[]'))
        FROM (
            SELECT x.id, x.at, x.at <= most AND (x.at = 1 OR NOT texts
                OR sum(coalesce(octet_length(f.content), 0)) OVER (ORDER BY x.at) <= 4194304) AS is_told
            FROM (SELECT value ->> 0 AS id, at FROM jsonb_array_elements(coalesce(found, '[]')) WITH ORDINALITY AS e (value, at)) AS x
            LEFT JOIN files AS f ON f.id = x.id) AS sized);
END $$;

CREATE FUNCTION larder_changed(since text) RETURNS jsonb LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
    SELECT jsonb_build_object('seen', pg_current_snapshot()::text, 'apps', coalesce((
        SELECT jsonb_agg(DISTINCT split_part(m.id, ':', 1)) FROM file_mirror AS m
        WHERE m.xid >= split_part(since, ':', 1)::xid8 AND NOT pg_visible_in_snapshot(m.xid, since::pg_snapshot)
            AND larder_may(larder_owner_of(m.id))), '[]'))
$$;

CREATE FUNCTION larder_paths(froms text[], untils text[], path_ats int[], plain boolean[], is_app boolean, prefix text, after text, most int, texts boolean)
RETURNS jsonb LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
    WITH named AS MATERIALIZED (
        SELECT n.id, n.owner, n.path FROM unnest(froms, untils, path_ats, plain) AS s (low, high, path_at, is_plain)
        CROSS JOIN LATERAL (
            SELECT m.id, m.rest,
                CASE WHEN is_app AND strpos(m.rest, ':') > 0 THEN split_part(m.rest, ':', 1) ELSE 'shared' END AS owner,
                CASE WHEN is_app AND strpos(m.rest, ':') > 0 THEN substr(m.rest, strpos(m.rest, ':') + 1) ELSE m.rest END AS path
            FROM (SELECT m.id, substr(m.id, s.path_at) AS rest FROM file_mirror AS m
                WHERE m.id >= s.low AND m.id < s.high AND larder_may(larder_owner_of(m.id)) AND NOT (s.is_plain AND strpos(substr(m.id, s.path_at), ':') > 0)
                    AND coalesce((SELECT true FROM files AS f WHERE f.id = m.id COLLATE "default"),
                        (SELECT true FROM file_chunked AS k WHERE k.id = m.id), false)
                ORDER BY m.id LIMIT CASE WHEN is_app THEN NULL ELSE most + 1 END) AS m) AS n
        WHERE left(n.path, length(prefix)) = prefix AND (after IS NULL OR n.path COLLATE "C" > after)
    ), page AS (
        SELECT * FROM named ORDER BY path COLLATE "C" FETCH FIRST most ROWS WITH TIES
    )
    SELECT jsonb_build_object('seen', pg_current_snapshot()::text,
        'more', (SELECT count(*) FROM named) > (SELECT count(*) FROM page),
        'rows', coalesce((SELECT jsonb_agg(larder_record(id, texts) ORDER BY path COLLATE "C", owner COLLATE "C") FROM page), '[]'))
$$;

-- As many as fit into one answer, at least one; null if the record has none at all.
CREATE FUNCTION larder_chunks(record text, first bigint, until bigint) RETURNS jsonb LANGUAGE sql STABLE AS $$
    SELECT CASE WHEN EXISTS (SELECT 1 FROM file_chunked WHERE id = record) THEN coalesce((
        SELECT jsonb_agg(translate(encode(c.bytes, 'base64'), E'\n', '') ORDER BY c.n) FROM (
            SELECT n, bytes, sum(octet_length(bytes)) OVER (ORDER BY n) - octet_length(bytes) AS before
            FROM file_chunks WHERE id = record AND n >= first AND n < until) AS c
        WHERE c.before < 4194304), '[]') END
$$;

CREATE FUNCTION larder_refusal(op text, is_absent boolean, expected bigint, kept bigint, n bigint, is_projected boolean, is_present boolean, chunks bigint)
RETURNS jsonb LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE
        WHEN op = 'delete' AND NOT is_present AND NOT is_projected AND is_absent THEN '{"deleted": true}'
        WHEN op = 'delete' AND NOT is_present AND NOT is_projected THEN '{"missing": true}'
        WHEN is_absent AND is_present THEN '{"conflict": "it is there already"}'
        WHEN NOT is_absent AND n <> expected THEN '{"conflict": "it has changed since it was read"}'
        WHEN op = 'chunks' AND chunks < kept THEN '{"conflict": "it has fewer chunks than are to be kept"}'
    END::jsonb
$$;

-- Rows before lines, as every trigger takes them.
CREATE FUNCTION larder_write_one(item jsonb, waits boolean) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    op text := item ->> 'op';
    record text := item ->> 'id';
    keeps bigint := coalesce((item ->> 'keep')::bigint, 0);
    has_text boolean;
    has_line boolean;
    was_put boolean := false;
    line file_mirror;
    before file_chunked;
    refusal jsonb;
    change bigint;
    touched bigint;
    kept_bytes bigint;
BEGIN
    IF waits THEN
        PERFORM 1 FROM files WHERE id = record FOR UPDATE;
        has_text := FOUND;
    ELSE
        PERFORM 1 FROM files WHERE id = record FOR UPDATE SKIP LOCKED;
        has_text := FOUND;
        IF NOT has_text AND EXISTS (SELECT 1 FROM files WHERE id = record) THEN
            RETURN '{"held": true}';
        END IF;
    END IF;
    IF op = 'text' AND NOT has_text THEN
        INSERT INTO files (id, path, content, app, owner_id, last_updated, created_at) VALUES (record, item ->> 'path', item ->> 'text',
            item ->> 'app', item ->> 'owner', (item ->> 'updated')::timestamptz, (item ->> 'created')::timestamptz)
            ON CONFLICT (id) DO NOTHING;
        GET DIAGNOSTICS touched = ROW_COUNT;
        IF touched = 0 THEN
            RETURN '{"conflict": "it is there already"}';
        END IF;
        was_put := true;
    END IF;
    SELECT * INTO line FROM file_mirror AS m WHERE m.id = record FOR UPDATE;
    has_line := FOUND;
    SELECT * INTO before FROM file_chunked AS k WHERE k.id = record;
    refusal := larder_refusal(op, (item ->> 'absent')::boolean, (item ->> 'n')::bigint, keeps, coalesce(line.n, 0),
        line.version IS NOT NULL, has_text OR before.id IS NOT NULL, coalesce(before.chunk_count, 0));
    IF refusal IS NULL THEN
        change := nextval('file_changes_n');
        IF has_line THEN
            UPDATE file_mirror AS m SET n = change, xid = pg_current_xact_id(), version = item ->> 'version',
                content_hash = decode(item ->> 'hash', 'hex'), revision = CASE WHEN item ->> 'version' IS NOT NULL THEN change END
                WHERE m.id = record;
        ELSE
            INSERT INTO file_mirror (id, n, xid, revision, version, content_hash) VALUES (record, change, pg_current_xact_id(),
                CASE WHEN item ->> 'version' IS NOT NULL THEN change END, item ->> 'version', decode(item ->> 'hash', 'hex'))
                ON CONFLICT (id) DO NOTHING;
            GET DIAGNOSTICS touched = ROW_COUNT;
            IF touched = 0 THEN
                refusal := '{"conflict": "it is there already"}';
            END IF;
        END IF;
    END IF;
    IF refusal IS NOT NULL THEN
        IF was_put THEN
            DELETE FROM files WHERE id = record;
        END IF;
        RETURN refusal;
    END IF;
    IF op = 'text' AND has_text THEN
        UPDATE files SET path = item ->> 'path', content = item ->> 'text', app = item ->> 'app', owner_id = item ->> 'owner',
            last_updated = (item ->> 'updated')::timestamptz, created_at = (item ->> 'created')::timestamptz WHERE id = record;
    ELSIF op <> 'text' AND has_text THEN
        DELETE FROM files WHERE id = record;
    END IF;
    IF op <> 'chunks' AND before.id IS NOT NULL THEN
        DELETE FROM file_chunks AS c WHERE c.id = record;
        DELETE FROM file_chunked AS k WHERE k.id = record;
    ELSIF op = 'chunks' THEN
        DELETE FROM file_chunks AS c WHERE c.id = record AND c.n >= keeps;
        SELECT coalesce(sum(octet_length(c.bytes)), 0) INTO kept_bytes FROM file_chunks AS c WHERE c.id = record;
        INSERT INTO file_chunks (id, n, bytes) SELECT record, keeps + e.at - 1, decode(e.value, 'base64')
            FROM jsonb_array_elements_text(item -> 'add') WITH ORDINALITY AS e (value, at);
        INSERT INTO file_chunked (id, path, app, owner_id, chunk_count, size_bytes, last_updated, created_at)
            VALUES (record, item ->> 'path', item ->> 'app', item ->> 'owner', keeps + jsonb_array_length(item -> 'add'),
                kept_bytes + (item ->> 'bytes')::bigint, (item ->> 'updated')::timestamptz, (item ->> 'created')::timestamptz)
            ON CONFLICT (id) DO UPDATE SET chunk_count = excluded.chunk_count, size_bytes = excluded.size_bytes,
                last_updated = excluded.last_updated, created_at = excluded.created_at;
    END IF;
    PERFORM pg_notify('larder', left(split_part(record, ':', 1), 1000));
    RETURN CASE WHEN op = 'delete' THEN '{"deleted": true}' ELSE jsonb_build_object('n', change::text) END;
EXCEPTION
    -- Of this item alone: what it did is taken back, the others stand.
    WHEN insufficient_privilege OR program_limit_exceeded OR data_exception THEN
        RETURN jsonb_build_object('refused', SQLSTATE, 'why', SQLERRM);
END $$;

-- Texts of records that never were, all at once: two statements for as many as there are. Null if one of them is none of these, and
-- then nothing was done.
CREATE FUNCTION larder_write_new(items jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    touched bigint;
    answers jsonb;
BEGIN
    IF jsonb_path_exists(items, '$[*] ? (@.op != "text" || @.absent != true)') THEN
        RETURN NULL;
    END IF;
    INSERT INTO files (id, path, content, app, owner_id, last_updated, created_at)
        SELECT id, path, text, app, owner, updated, created FROM jsonb_to_recordset(items)
            AS item (id text, path text, text text, app text, owner text, updated timestamptz, created timestamptz)
        ON CONFLICT (id) DO NOTHING;
    GET DIAGNOSTICS touched = ROW_COUNT;
    IF touched < jsonb_array_length(items)
        OR EXISTS (SELECT 1 FROM jsonb_to_recordset(items) AS item (id text) JOIN file_chunked AS k ON k.id = item.id) THEN
        RAISE EXCEPTION SQLSTATE 'LD001';
    END IF;
    WITH line AS (
        INSERT INTO file_mirror (id, n, xid, revision, version, content_hash)
        SELECT id, n, pg_current_xact_id(), CASE WHEN version IS NOT NULL THEN n END, version, decode(hash, 'hex')
            FROM (SELECT nextval('file_changes_n') AS n, item.* FROM jsonb_to_recordset(items) AS item (id text, version text, hash text)) AS numbered
        ON CONFLICT (id) DO NOTHING RETURNING n)
    SELECT count(*), jsonb_agg(jsonb_build_object('n', n::text) ORDER BY n) INTO touched, answers FROM line;
    IF touched < jsonb_array_length(items) THEN
        RAISE EXCEPTION SQLSTATE 'LD001';
    END IF;
    PERFORM pg_notify('larder', app) FROM (
        SELECT DISTINCT left(split_part(id, ':', 1), 1000) AS app FROM jsonb_to_recordset(items) AS item (id text)) AS told;
    RETURN answers;
EXCEPTION
    -- One of them is at fault, or is not new: each by itself tells which.
    WHEN SQLSTATE 'LD001' OR insufficient_privilege OR program_limit_exceeded OR data_exception THEN
        RETURN NULL;
END $$;

CREATE FUNCTION larder_write(items jsonb, waits boolean) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    item jsonb;
    answers jsonb[] := '{}';
    told jsonb;
BEGIN
    PERFORM set_config('larder.writes', 'on', true), set_config('lock_timeout', '2s', true);
    IF NOT waits AND jsonb_array_length(items) > 1 THEN
        told := larder_write_new(items);
        IF told IS NOT NULL THEN
            PERFORM set_config('larder.writes', '', true);
            RETURN told;
        END IF;
    END IF;
    FOR item IN SELECT value FROM jsonb_array_elements(items) LOOP
        answers := answers || larder_write_one(item, waits);
    END LOOP;
    PERFORM set_config('larder.writes', '', true);
    RETURN to_jsonb(answers);
END $$;
"#;

const RIGHTS: &str = r#"
DO $$
DECLARE
    who text;
BEGIN
    FOREACH who IN ARRAY ARRAY['anon', 'authenticated', 'service_role'] LOOP
        IF EXISTS (SELECT 1 FROM pg_roles WHERE rolname = who) THEN
            EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON files, file_mirror, file_chunked, file_chunks TO %I', who);
            EXECUTE format('REVOKE TRUNCATE ON files, file_mirror, file_chunked, file_chunks FROM %I', who);
            EXECUTE format('REVOKE ALL ON file_store FROM %I', who);
            EXECUTE format('GRANT SELECT ON files_all TO %I', who);
            EXECUTE format('GRANT USAGE ON SEQUENCE file_changes_n TO %I', who);
            EXECUTE format('REVOKE EXECUTE ON FUNCTION larder_note(text) FROM %I', who);
        END IF;
    END LOOP;
    -- Realtime tells of rows of this table: every change of any record is one.
    IF EXISTS (SELECT 1 FROM pg_publication WHERE pubname = 'supabase_realtime') AND NOT EXISTS (SELECT 1 FROM pg_publication_tables
        WHERE pubname = 'supabase_realtime' AND schemaname = 'public' AND tablename = 'file_mirror') THEN
        ALTER PUBLICATION supabase_realtime ADD TABLE file_mirror;
    END IF;
END $$;
NOTIFY pgrst, 'reload schema';
"#;

//! Which statements gave this thread rows of the index: what laws about work look at. For tests alone.

use std::cell::{Cell, RefCell};

use rusqlite::Connection;
use rusqlite::trace::{TraceEvent, TraceEventCodes};

thread_local! {
    static WANTED: Cell<bool> = const { Cell::new(false) };
    static ROWS: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// Traces the connections that this thread opens while `open` runs.
pub(crate) fn traced<T>(open: impl FnOnce() -> T) -> T {
    WANTED.set(true);
    let opened = open();
    WANTED.set(false);
    opened
}

/// What was done, and the statement of each row that a traced connection gave this thread meanwhile.
pub(crate) fn rows_of<T>(act: impl FnOnce() -> T) -> (T, Vec<String>) {
    ROWS.take();
    (act(), ROWS.take())
}

/// Traces a new connection, if that is wanted.
pub(super) fn note_opened(conn: &Connection) {
    if WANTED.get() {
        conn.trace_v2(TraceEventCodes::SQLITE_TRACE_ROW, Some(note_row));
    }
}

fn note_row(event: TraceEvent<'_>) {
    if let TraceEvent::Row(statement) = event {
        ROWS.with_borrow_mut(|rows| rows.push(statement.sql().into_owned()));
    }
}

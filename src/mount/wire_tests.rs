//! Laws of the bytes in a ring's buffers: whatever stands in them, an answer stays within its buffer.

use std::sync::{Arc, Mutex};

use super::super::answers::Owner;
use super::super::counters::Counters;
use super::super::memory::{MemoryCatalog, MemoryPut};
use super::super::replay::Replayer;
use super::super::scout::Scout;
use super::super::session::Teller;
use super::super::view::View;
use super::*;

const WALL_MS: u64 = 1_784_034_732_045;
const ROOM: usize = 4096;
const OWNER: u32 = 7;

pub(in crate::mount) fn answers() -> Answers<MemoryCatalog> {
    let view = Arc::new(View::new(MemoryCatalog::new()));
    for number in 0..200 {
        view.catalog().put(&MemoryPut::file("laptop-abc234", &format!("notes/{number}.md"), b"a text", WALL_MS));
    }
    Answers {
        scout: Scout::new(&view),
        view,
        counters: Arc::new(Counters::default()),
        owner: Owner { uid: OWNER, gid: 8 },
        allow_other: false,
        xattrs: true,
        replayer: Arc::new(Replayer::default()),
        through: None,
        teller: Teller::default(),
        told: Mutex::default(),
        listed: Mutex::default(),
    }
}

fn head(opcode: u32, node: NodeId) -> Head {
    Head { opcode, unique: 1, node: node.0, uid: OWNER, asked_by: 1 }
}

fn find(answers: &Answers<MemoryCatalog>, path: &str) -> NodeId {
    path.split('/').fold(View::<MemoryCatalog>::root(), |parent, name| {
        answers.view.lookup(parent, OsStr::new(name)).expect("it is there").id
    })
}

/// The number of a listing's lines and the offset behind the last, as the kernel reads them.
fn lines_in(bytes: &[u8], before_line: usize) -> Vec<(String, u64)> {
    let (mut lines, mut rest) = (Vec::new(), bytes);
    while !rest.is_empty() {
        let line = &rest[before_line..];
        let (offset, name_len) = (u64_at(line, 8), u32_at(line, 16) as usize);
        let name = String::from_utf8(line[DIRENT_BYTES..DIRENT_BYTES + name_len].to_vec()).expect("UTF-8");
        lines.push((name, offset));
        rest = &rest[(before_line + DIRENT_BYTES + name_len).next_multiple_of(8)..];
    }
    lines
}

#[test]
fn a_listing_in_pieces_of_any_size_has_every_line_once() {
    let answers = answers();
    let folder = find(&answers, "merged/notes");
    for (opcode, before_line) in [(op::READDIR, 0), (op::READDIRPLUS, ENTRY_BYTES)] {
        let (mut names, mut offset) = (Vec::new(), 0u64);
        for room in (200u32..).step_by(56) {
            let mut payload = vec![0xff; ROOM];
            let mut op = [0; 40];
            op[8..16].copy_from_slice(&offset.to_ne_bytes());
            op[16..20].copy_from_slice(&room.to_ne_bytes());
            let len = answer(&answers, &head(opcode, folder), &op, &mut payload, 0).expect("lines");
            assert!(len <= room as usize);
            assert!(payload[len..].iter().all(|byte| *byte == 0xff), "written behind the answer");
            let lines = lines_in(&payload[..len], before_line);
            let Some((_, last)) = lines.last() else { break };
            offset = *last;
            names.extend(lines.into_iter().map(|(name, _)| name));
        }
        let mut expected: Vec<String> = (0..200).map(|number| format!("{number}.md")).collect();
        expected.extend([".".to_owned(), "..".to_owned()]);
        expected.sort();
        names.sort();
        assert_eq!(names, expected);
    }
}

#[test]
fn whatever_stands_in_the_buffers_no_answer_leaves_its_own() {
    let answers = answers();
    let nodes = ["merged", "merged/notes", "merged/notes/7.md"].map(|path| find(&answers, path));
    let mut state = 88_172_645_463_325_252_u64;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    for round in 0..40_000 {
        let opcode = (next() % 56) as u32;
        let node = nodes.get((next() % 4) as usize).copied().unwrap_or(NodeId(next()));
        let op: [u8; 128] = std::array::from_fn(|_| if next() % 3 == 0 { (next() & 0xff) as u8 } else { 0 });
        let room = (next() % 600) as usize;
        let mut buffer: Vec<u8> = (0..room + 16).map(|_| (next() & 0xff) as u8).collect();
        let behind = buffer[room..].to_vec();
        // More was sent than there is room for, too.
        let sent = (next() % 700) as usize;
        let outcome = answer(&answers, &head(opcode, node), &op, &mut buffer[..room], sent);
        assert!(outcome.is_err() || outcome.is_ok_and(|len| len <= room), "round {round}: opcode {opcode} in {room}");
        assert_eq!(buffer[room..], behind, "round {round}: opcode {opcode}");
    }
}

#[test]
fn what_would_change_something_is_refused_and_what_is_unknown_is_not_there() {
    let answers = answers();
    let file = find(&answers, "merged/notes/7.md");
    let outcome = |opcode| answer(&answers, &head(opcode, file), &[0; 128], &mut [0; ROOM], 1).map_err(|e| e.code());
    let changes = [
        op::SETATTR,
        op::SYMLINK,
        op::MKNOD,
        op::MKDIR,
        op::UNLINK,
        op::RMDIR,
        op::RENAME,
        op::LINK,
        op::WRITE,
        op::CREATE,
        op::RENAME2,
    ];
    for opcode in changes {
        assert_eq!(outcome(opcode), Err(libc::EROFS), "{opcode}");
    }
    for opcode in [op::OPEN, op::OPENDIR, 20, 21, 24, 25, 30, 34, 37, 43, 46, 47, 52, 4096] {
        assert_eq!(outcome(opcode), Err(libc::ENOSYS), "{opcode}");
    }
}

#[test]
fn who_is_not_the_owner_is_shown_nothing_unless_others_are_let_in() {
    let mut answers = answers();
    let file = find(&answers, "merged/notes/7.md");
    let outcome = |answers: &Answers<MemoryCatalog>| {
        let stranger = Head { uid: 0, ..head(op::GETATTR, file) };
        answer(answers, &stranger, &[0; 128], &mut [0; ROOM], 0).map_err(|errno| errno.code())
    };
    assert_eq!(outcome(&answers), Err(libc::EACCES));
    answers.allow_other = true;
    assert_eq!(outcome(&answers), Ok(104));
}

#[test]
fn what_is_put_together_when_it_is_asked_for_and_many_bytes_may_take_long() {
    let answers = answers();
    let node = |path| find(&answers, path);
    let names = |path| [op::LOOKUP, op::READDIR, op::READDIRPLUS].map(|kind| head(kind, node(path)).may_take_long(&[]));
    for path in ["merged", "merged/notes", "origins", "origins/laptop-abc234"] {
        assert_eq!(names(path), [false; 3], "{path}");
    }
    for path in ["search", "at", "history", "history/notes", "conflicts", "starred", "trash"] {
        assert_eq!(names(path), [true; 3], "{path}");
    }
    let of_bytes = |bytes: u32| {
        let mut op = [0; 40];
        op[16..20].copy_from_slice(&bytes.to_ne_bytes());
        head(op::READ, node("merged/notes/7.md")).may_take_long(&op)
    };
    assert_eq!([4096, 128 << 10, 256 << 10, 1 << 20].map(of_bytes), [false, false, true, true]);
    assert!(!head(op::GETATTR, node("search")).may_take_long(&[]));
}

//! Lets the kernel read long files from plain copies: the answers to its `open` and `release`, where they are wanted and allowed.
//!
//! Invariant: whether the kernel takes copies at all is settled before the first `open` is answered, because that answer holds for the whole
//! mount: if it does not, the mount is one without copies. Which copies there are is [`super::copies`]' business.

use std::fs::File;
use std::io;
use std::sync::OnceLock;

use fuser::{BackingId, Errno, FileHandle, FopenFlags, InitFlags, KernelConfig, OpenAccMode, OpenFlags, ReplyOpen};

use super::catalog::Catalog;
use super::copies::{Copies, LongFile, MIN_BYTES, Opener};
use super::node::NodeId;
use super::view::View;

/// Told to the kernel for a file whose letting go is of no interest.
const SHORT: FileHandle = FileHandle(0);
/// The same for one that is held until then.
const HELD: FileHandle = FileHandle(1);
/// Other file systems may still be laid over the view.
const STACK_DEPTH: u32 = 1;

/// Copies, and whether the kernel takes them.
pub(super) struct Through {
    pub(super) copies: Copies<ReplyOpen>,
    verdict: OnceLock<Result<(), String>>,
}

impl Through {
    pub(super) fn new(copies: Copies<ReplyOpen>) -> Through {
        Through { copies, verdict: OnceLock::new() }
    }

    /// Asks the kernel when the mount begins.
    pub(super) fn negotiate(&self, config: &mut KernelConfig) {
        let is_known = config.add_capabilities(InitFlags::FUSE_PASSTHROUGH).is_ok();
        if !is_known || config.set_max_stack_depth(STACK_DEPTH).is_err() {
            // Nobody has said anything else before.
            let _ = self.verdict.set(Err("this kernel cannot (Linux 6.9 and later can)".to_owned()));
        }
    }

    /// True if the kernel takes copies; tried out at the first `open`.
    pub(super) fn is_allowed(&self, reply: &ReplyOpen) -> bool {
        let try_out = || {
            let sample =
                self.copies.sample().map_err(|error| format!("the folder for copies cannot be used: {error}"))?;
            // Let go again at once.
            reply.open_backing(&sample).map(drop).map_err(|error| format!("the kernel refuses: {error}"))
        };
        self.verdict.get_or_init(try_out).is_ok()
    }

    /// Why there will be no copies, once that is known.
    pub(super) fn refusal(&self) -> Option<&str> {
        self.verdict.get()?.as_ref().err().map(String::as_str)
    }

    /// Answers `open`, perhaps later and from another thread.
    pub(super) fn open<C: Catalog>(&self, view: &View<C>, node: NodeId, flags: OpenFlags, reply: ReplyOpen) {
        if flags.acc_mode() != OpenAccMode::O_RDONLY {
            return reply.error(Errno::EROFS);
        }
        match view.file_row(node) {
            Ok(Some(row)) if row.content.size >= MIN_BYTES => {
                let (hash, size) = (row.content.hash, row.content.size);
                self.copies.open(LongFile { node, file: row.id, hash, size }, reply);
            }
            // What is wrong with it is said when it is read.
            _ => reply.opened(SHORT, FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_NOFLUSH),
        }
    }

    /// Takes note of a `release`.
    pub(super) fn release(&self, node: NodeId, handle: FileHandle) {
        if handle == HELD {
            self.copies.release(node);
        }
    }
}

impl Opener for ReplyOpen {
    type Backing = BackingId;

    fn back(&self, copy: &File) -> io::Result<BackingId> {
        self.open_backing(copy)
    }

    fn pass_through(self, backing: &BackingId) {
        self.opened_passthrough(HELD, FopenFlags::FOPEN_NOFLUSH, backing);
    }

    fn read_usually(self) {
        self.opened(HELD, FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_NOFLUSH);
    }

    fn refuse(self) {
        self.error(Errno::EIO);
    }
}

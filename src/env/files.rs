//! What the system lets a process do with files: how many may be open at once, how long a socket's path may be, and whether a whole file
//! system can be synced.
//!
//! Invariant: only the process's own limit moves, and never beyond what the system lets it have without asking anybody.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// More than any batch needs; systems that allow a milliard make some programs that are started from here slow.
const WANTED_FILES: u64 = 16_384;

/// File systems of which the kernel does not know what is on the disk: in user space, SMB and 9P. There each file is synced by itself.
const SYNCS_NO_WHOLE: [u32; 4] = [0x6573_5546, 0xff53_4d42, 0xfe53_4d42, 0x0102_1997];

/// Whether all that was written to the file system of a file or folder can be made durable at one stroke.
pub fn syncs_whole(file: impl AsFd) -> bool {
    rustix::fs::fstatfs(file).is_ok_and(|found| knows_the_disk(found.f_type as u32))
}

fn knows_the_disk(kind: u32) -> bool {
    !SYNCS_NO_WHOLE.contains(&kind)
}

/// Does something with a socket. Their addresses are short: one in a deep folder is reached through the folder's handle.
pub fn at_short_path<T>(socket: &Path, act: impl Fn(&Path) -> io::Result<T>) -> io::Result<T> {
    const MAX_ADDRESS_BYTES: usize = 100;
    if socket.as_os_str().len() <= MAX_ADDRESS_BYTES {
        return act(socket);
    }
    let (Some(folder), Some(name)) = (socket.parent(), socket.file_name()) else { return act(socket) };
    let folder = std::fs::File::open(folder)?;
    act(&Path::new("/proc/self/fd").join(folder.as_raw_fd().to_string()).join(name))
}

/// Has as many open as work in large batches needs, where the usual limit is 1,024. For the start of a program.
pub fn open_many_files() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let wanted = maximum.map_or(WANTED_FILES, |maximum| maximum.min(WANTED_FILES));
    if current.is_some_and(|current| current < wanted) {
        // Where it may not be raised, batches are smaller.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_system_of_its_own_is_synced_at_one_stroke_and_one_that_somebody_serves_is_not() {
        const EXT4: u32 = 0xef53;
        const FUSE: u32 = 0x6573_5546;

        assert!(knows_the_disk(EXT4) && !knows_the_disk(FUSE));
        assert!(syncs_whole(std::fs::File::open("/proc").expect("opens")));
    }
}

//! Growing: bytes are put at the end of a file that nobody else has open.
//!
//! Invariant: what stands in the file is not touched. Bytes are only added, at the very end that was expected, while a lease
//! keeps everybody else out; if not all of them fit, those that did are taken away again. Whoever cannot be kept out is
//! not disturbed: then nothing is added. Does not know what the bytes are, nor what to do instead.

use std::fs::File;

use rustix::fs::{self, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::place::{PlaceError, Spot, Standing, base_stat};
use crate::scan::Alone;
use crate::state::BaseStat;

/// Why a file did not grow, or may not have.
#[derive(Debug)]
pub(super) enum NotGrown {
    /// Nothing was changed: somebody else has it open, it is not what was expected, or leases are not ours to take.
    Untouched,
    /// What was added was taken away again.
    TakenBack(PlaceError),
    /// What stands there now has to be looked at.
    Unclear(PlaceError),
}

impl Spot {
    /// Adds `tail` to the file that stands here with exactly these facts, and makes it durable.
    ///
    /// Returns the facts afterwards, as they were while nobody else could change the file.
    pub(super) fn grow(&self, expected: &BaseStat, tail: &[u8]) -> Result<BaseStat, NotGrown> {
        let flags = OFlags::RDWR | OFlags::APPEND | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let opened = fs::openat(self.folder(), self.name(), flags | OFlags::NOCTTY, Mode::empty());
        let file = opened.map(File::from).map_err(|_| NotGrown::Untouched)?;
        let alone = Alone::with(&file).ok_or(NotGrown::Untouched)?;
        if !is_as_expected(&file, expected) {
            return Err(NotGrown::Untouched);
        }
        add(&file, expected.size, tail, || alone.is_undisturbed(), |bytes| rustix::io::write(&file, bytes))?;
        let grown = self.grown(&file, expected, tail).map_err(NotGrown::Unclear)?;
        // Asked for in between, it may have been taken from us if this process was stopped for long.
        if !alone.is_undisturbed() {
            return Err(NotGrown::Unclear(PlaceError::Raced));
        }
        // Nobody waits for a sync: what others change from here on shows in the facts.
        drop(alone);
        fs::fdatasync(&file).map_err(|errno| NotGrown::Unclear(errno.into()))?;
        Ok(grown)
    }

    /// Reads back what was added, and proves that the name still leads to this very file.
    fn grown(&self, file: &File, expected: &BaseStat, tail: &[u8]) -> Result<BaseStat, PlaceError> {
        let mut added = vec![0; tail.len()];
        std::os::unix::fs::FileExt::read_exact_at(file, &mut added, expected.size)?;
        let grown = base_stat(&fs::fstat(file)?);
        let is_named = matches!(self.standing()?, Standing::File(_, named) if named == grown);
        let is_right = added == tail && grown.size == expected.size + tail.len() as u64;
        if is_named && is_right { Ok(grown) } else { Err(PlaceError::Raced) }
    }
}

/// A regular file with exactly these facts and no second name: what is added must not show anywhere else.
fn is_as_expected(file: &File, expected: &BaseStat) -> bool {
    fs::fstat(file).is_ok_and(|stat| {
        let is_file = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
        is_file && stat.st_nlink == 1 && base_stat(&stat) == *expected
    })
}

/// Writes at the end, in one call unless the kernel takes less; takes back what was written if it does not take all, and nobody else can
/// have written meanwhile.
fn add(
    file: &File,
    size: u64,
    tail: &[u8],
    is_alone: impl Fn() -> bool,
    mut write: impl FnMut(&[u8]) -> rustix::io::Result<usize>,
) -> Result<(), NotGrown> {
    let mut done = 0;
    while done < tail.len() {
        let why = match write(&tail[done..]) {
            Ok(0) => PlaceError::NoSpace,
            Ok(count) => {
                done += count;
                continue;
            }
            Err(Errno::INTR) => continue,
            Err(errno) => errno.into(),
        };
        let has_size = || fs::fstat(file).is_ok_and(|now| base_stat(&now).size == size);
        // A disk that fails may have taken a part of what it refused.
        if done == 0 && has_size() {
            return Err(NotGrown::Untouched);
        }
        // Stopped for long, the lease may be lost: what is there then may be somebody's.
        if !is_alone() {
            return Err(NotGrown::Unclear(why));
        }
        // Durable, as no intent speaks of it afterwards: a loss of power must not bring back a part of the tail.
        let is_back = fs::ftruncate(file, size).is_ok() && has_size() && fs::fdatasync(file).is_ok();
        return Err(if is_back { NotGrown::TakenBack(why) } else { NotGrown::Unclear(why) });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::fs::MetadataExt;
    use std::path::PathBuf;

    use super::*;
    use crate::model::RelPath;
    use crate::scan::Root;

    struct Place {
        folder: tempfile::TempDir,
        spot: Spot,
    }

    impl Place {
        fn with(text: &str) -> Place {
            let folder = tempfile::tempdir().expect("a folder");
            std::fs::write(folder.path().join("a.log"), text).expect("writes");
            let root = Root::open(folder.path()).expect("opens");
            let path = RelPath::parse("a.log").expect("a path");
            let spot = Spot::open(&root, &path, false).expect("opens").expect("is there");
            Place { folder, spot }
        }

        fn path(&self) -> PathBuf {
            self.folder.path().join("a.log")
        }

        fn facts(&self) -> BaseStat {
            match self.spot.standing().expect("looks") {
                Standing::File(_, stat) => stat,
                other => panic!("a file: {other:?}"),
            }
        }

        fn text(&self) -> String {
            std::fs::read_to_string(self.path()).expect("reads")
        }
    }

    #[test]
    fn only_the_tail_is_written_and_the_file_stays_the_same_one() {
        let place = Place::with("one\n");
        let before = place.facts();

        let after = place.spot.grow(&before, b"two\n").expect("grows");

        assert_eq!(place.text(), "one\ntwo\n");
        assert_eq!((after.inode, after.size), (before.inode, 8));
        assert_eq!(after, place.facts());
    }

    #[test]
    fn whoever_has_the_file_open_is_not_disturbed() {
        let place = Place::with("one\n");
        let facts = place.facts();
        let options = [std::fs::File::options().read(true).clone(), std::fs::File::options().append(true).clone()];
        for options in &options {
            let held = options.open(place.path()).expect("opens");

            let refused = place.spot.grow(&facts, b"two\n");

            assert!(matches!(refused, Err(NotGrown::Untouched)), "{refused:?}");
            assert_eq!((place.text().as_str(), place.facts()), ("one\n", facts));
            drop(held);
        }
        place.spot.grow(&facts, b"two\n").expect("grows once they are gone");
    }

    #[test]
    fn a_file_that_is_not_as_expected_is_left_alone() {
        let place = Place::with("one\n");
        let facts = place.facts();
        let mut other = std::fs::File::options().append(true).open(place.path()).expect("opens");
        other.write_all(b"theirs\n").expect("appends");
        drop(other);

        assert!(matches!(place.spot.grow(&facts, b"two\n"), Err(NotGrown::Untouched)));
        assert_eq!(place.text(), "one\ntheirs\n");
    }

    #[test]
    fn a_tail_that_does_not_fit_is_cut_off_again() {
        let place = Place::with("one\n");
        let file = std::fs::File::options().append(true).open(place.path()).expect("opens");
        let mut room = 6;
        let write = |bytes: &[u8]| {
            let taken = bytes.len().min(room);
            room -= taken;
            if taken == 0 { Err(Errno::NOSPC) } else { rustix::io::write(&file, &bytes[..taken]) }
        };

        let refused = add(&file, 4, b"two\nthree\n", || true, write);

        assert!(matches!(refused, Err(NotGrown::TakenBack(PlaceError::NoSpace))), "{refused:?}");
        assert_eq!(place.text(), "one\n");
        assert!(matches!(add(&file, 4, b"two\n", || true, |_| Err(Errno::NOSPC)), Err(NotGrown::Untouched)));
    }

    #[test]
    fn what_a_failing_disk_took_of_what_it_refused_is_cut_off_again() {
        let place = Place::with("one\n");
        let file = std::fs::File::options().append(true).open(place.path()).expect("opens");
        let write = |bytes: &[u8]| rustix::io::write(&file, &bytes[..2]).and(Err(Errno::IO));

        let refused = add(&file, 4, b"two\n", || true, write);

        assert!(matches!(refused, Err(NotGrown::TakenBack(PlaceError::Io(_)))), "{refused:?}");
        assert_eq!(place.text(), "one\n");
    }

    #[test]
    fn what_somebody_else_may_have_added_is_not_cut_off() {
        let place = Place::with("one\n");
        let file = std::fs::File::options().append(true).open(place.path()).expect("opens");
        let write = |_: &[u8]| rustix::io::write(&file, b"theirs\n").and(Err(Errno::NOSPC));

        let refused = add(&file, 4, b"two\n", || false, write);

        assert!(matches!(refused, Err(NotGrown::Unclear(PlaceError::NoSpace))), "{refused:?}");
        assert_eq!(place.text(), "one\ntheirs\n");
    }

    #[test]
    fn a_second_name_of_the_file_never_grows_with_it() {
        let place = Place::with("one\n");
        let snapshot = place.folder.path().join("snapshot");
        std::fs::hard_link(place.path(), &snapshot).expect("links");

        assert!(matches!(place.spot.grow(&place.facts(), b"two\n"), Err(NotGrown::Untouched)));
        assert_eq!(std::fs::metadata(&snapshot).expect("looks").size(), 4);
    }
}

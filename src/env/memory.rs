//! How much memory the process keeps beyond what it uses.
//!
//! Invariant: nothing but the size of the process changes. Does nothing where the C library or the system has no such settings.

/// Has all threads take memory from one heap: what one thread frees another can use, and trimming reaches it. For the start
/// of a program. A first mirror of 100,000 files took 62 MiB instead of 77 with it, and no longer.
pub fn share_one_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it takes no pointer and sets one number of the allocator, whatever other threads do.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}

/// Gives back what is free, wherever it lies between what is not. Costs a pass over all free memory: for the ends of large steps.
pub fn give_memory_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it takes no pointer and touches only memory that nobody holds.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Unmaps the program's own code, as far as it is in memory: what is needed again comes back from the system's cache, a few
/// pages at a time. For the ends of large steps, after which little of it is: of 20 MiB, a process at rest uses two.
pub fn let_go_of_the_program() {
    #[cfg(target_os = "linux")]
    for (start, len) in own_code().unwrap_or_default() {
        // SAFETY: the span is mapped from the program's file, executable and not writable, so that no page of it differs from
        // the file; whoever runs in it meanwhile waits for the page.
        unsafe {
            libc::madvise(start as *mut libc::c_void, len, libc::MADV_DONTNEED);
        }
    }
}

/// Where the code of the program stands, as addresses and lengths; `None` if that cannot be told for sure.
#[cfg(target_os = "linux")]
fn own_code() -> Option<Vec<(usize, usize)>> {
    let program = std::fs::read_link("/proc/self/exe").ok()?;
    let maps = std::fs::read_to_string("/proc/self/maps").ok()?;
    Some(maps.lines().filter_map(|line| code_of(line, program.to_str()?)).collect())
}

/// The span that a line of `/proc/self/maps` tells of, if it is code of the program.
#[cfg(target_os = "linux")]
fn code_of(line: &str, program: &str) -> Option<(usize, usize)> {
    let (place, path) = line.split_once('/')?;
    let mut words = place.split_whitespace();
    let (start, end) = words.next()?.split_once('-')?;
    let (start, end) = (usize::from_str_radix(start, 16).ok()?, usize::from_str_radix(end, 16).ok()?);
    let is_code = words.next() == Some("r-xp") && path == program.strip_prefix('/')?;
    is_code.then(|| end.checked_sub(start).map(|len| (start, len)))?
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn only_code_of_the_program_itself_is_let_go() {
        let code = "55d0c0a00000-55d0c1c00000 r-xp 00487000 fe:00 123                        /opt/a b/larder";
        assert_eq!(code_of(code, "/opt/a b/larder"), Some((0x55d0_c0a0_0000, 0x120_0000)));
        assert_eq!(code_of(code, "/opt/larder"), None);
        for mode in ["r--p", "rw-p", "rwxp", "r-xs"] {
            assert_eq!(code_of(&code.replace("r-xp", mode), "/opt/a b/larder"), None);
        }
        assert_eq!(code_of("7ffd0000-7ffd1000 r-xp 00000000 00:00 0        [vdso]", "/opt/a b/larder"), None);
    }

    #[test]
    fn the_program_goes_on_without_its_pages() {
        assert!(own_code().is_some_and(|spans| !spans.is_empty()));
        for _ in 0..10 {
            let_go_of_the_program();
        }
        assert_eq!((1..=100u64).map(|n| n * n).sum::<u64>(), 338_350);
    }
}

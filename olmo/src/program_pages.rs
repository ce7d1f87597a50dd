//! The pages of the program's own file.
//!
//! They count to a process's memory from when they are first touched, and the system maps 64 KiB around
//! each. Starting, reading arguments and opening a model go through some 13 MB of them, of which
//! tokens come back to half.

#[cfg(target_os = "linux")]
use std::ops::Range;

/// Gives back the code and the constants that were used so far. What is used again is mapped again from the
/// system's copy of the file, which takes some microseconds for each 64 KiB of it.
#[cfg(target_os = "linux")]
pub(crate) fn give_back() {
    let here = give_back as fn() as usize;
    let Ok(mappings) = std::fs::read_to_string("/proc/self/smaps") else { return };
    for pages in as_in_file(&mappings, here) {
        // SAFETY: the range is a mapping of a file that nothing was written to in memory, so that pages
        // read from the file again are what they were; a thread that needs one waits for it. Where
        // the system refuses, they stay.
        let _ = unsafe { libc::madvise(pages.start as *mut _, pages.len(), libc::MADV_DONTNEED) };
    }
}

/// Other systems count otherwise.
#[cfg(not(target_os = "linux"))]
pub(crate) fn give_back() {}

/// One of the mappings that `/proc/self/smaps` lists.
#[cfg(target_os = "linux")]
struct Mapping<'a> {
    range: Range<usize>,
    is_writable: bool,
    /// Device, number and path.
    file: &'a str,
    /// Whether no page is other than in the file.
    is_as_in_file: bool,
}

/// The read-only mappings of the file whose code is at an address, but for those of which a page is
/// not the file's any more: addresses that were filled in, code with a debugger's breakpoint.
#[cfg(target_os = "linux")]
fn as_in_file(mappings: &str, address: usize) -> Vec<Range<usize>> {
    let mut all: Vec<Mapping<'_>> = Vec::new();
    for line in mappings.lines() {
        if let Some(mapping) = mapping(line) {
            all.push(mapping);
        } else if let (Some(last), Some(written)) =
            (all.last_mut(), line.strip_prefix("Anonymous:"))
        {
            last.is_as_in_file = written.trim() == "0 kB";
        }
    }
    let code = all.iter().find(|mapping| mapping.range.contains(&address));
    let file = code.map(|code| code.file);
    all.retain(|m| Some(m.file) == file && !m.is_writable && m.is_as_in_file);
    all.into_iter().map(|mapping| mapping.range).collect()
}

/// The mapping that a line begins the description of: addresses, rights, place in the file, file.
#[cfg(target_os = "linux")]
fn mapping(line: &str) -> Option<Mapping<'_>> {
    let mut fields = line.splitn(4, ' ');
    let (start, end) = fields.next()?.split_once('-')?;
    let hexadecimal = |text| usize::from_str_radix(text, 16).ok();
    let range = hexadecimal(start)?..hexadecimal(end)?;
    let is_writable = fields.next()?.contains('w');
    let file = fields.nth(1)?;
    Some(Mapping { range, is_writable, file, is_as_in_file: false })
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    const MAPPINGS: &str = "\
5500-5600 r--p 00000000 fe:00 131   /usr/bin/olmo
Rss:                  44 kB
Anonymous:             0 kB
VmFlags: rd mr mw me
5600-5900 r-xp 00000100 fe:00 131   /usr/bin/olmo
Rss:                 100 kB
Anonymous:             0 kB
VmFlags: rd ex mr mw me
5900-5a00 r--p 00000400 fe:00 131   /usr/bin/olmo
Rss:                  12 kB
Anonymous:             8 kB
5a00-5b00 rw-p 00000500 fe:00 131   /usr/bin/olmo
Rss:                   0 kB
Anonymous:             0 kB
5b00-5c00 rw-p 00000000 00:00 0
Anonymous:             0 kB
7000-7100 r-xp 00000000 fe:00 140   /usr/lib/libc.so.6
Rss:                  12 kB
Anonymous:             0 kB
";

    #[test]
    fn what_was_written_to_or_may_be_stays() {
        let found = |mappings, address| -> Vec<(usize, usize)> {
            as_in_file(mappings, address).into_iter().map(|r| (r.start, r.end)).collect()
        };
        let code_and_constants = [(0x5500, 0x5600), (0x5600, 0x5900)];
        assert_eq!(found(MAPPINGS, 0x5600), code_and_constants);
        assert_eq!(found(MAPPINGS, 0x58ff), code_and_constants);
        assert_eq!(found(MAPPINGS, 0x7000), [(0x7000, 0x7100)]);
        let unwritten = "Rss:                 100 kB\nAnonymous:             0";
        let with_a_breakpoint = MAPPINGS.replacen(unwritten, "Anonymous: 4", 1);
        assert_eq!(found(&with_a_breakpoint, 0x5600), [(0x5500, 0x5600)]);
        assert_eq!(found(MAPPINGS, 0x6000), []);
        assert_eq!(found("5600-5900 r-xp", 0x5600), []);
    }

    /// Fewer pages of this test's own code are mapped afterwards, and what they hold still runs.
    #[test]
    fn what_was_given_back_is_there_again() {
        let mapped = || {
            let text = std::fs::read_to_string("/proc/self/smaps").expect("Linux has it");
            let here = give_back as fn() as usize;
            assert!(!as_in_file(&text, here).is_empty());
            let of_code = |line: &&str| mapping(line).is_some_and(|m| m.range.contains(&here));
            let mut lines = text.lines().skip_while(|line| !of_code(line));
            let rss = lines.find_map(|line| line.strip_prefix("Rss:")).expect("each has it");
            rss.trim().trim_end_matches(" kB").parse::<usize>().expect("a number")
        };
        let before = mapped();
        give_back();
        let after = mapped();
        assert!(after < before, "{after} of {before} KiB");
    }
}

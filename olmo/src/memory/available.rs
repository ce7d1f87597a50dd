//! How much memory is free on Linux.

use std::fs;
use std::path::Path;

/// Where control groups are, of version 2.
const GROUPS: &str = "/sys/fs/cgroup";

/// Memory that can be had without swapping something out, within the limits of the control groups; `None`
/// where the system does not tell.
pub(super) fn available_bytes() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kibibytes: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    let group = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let left = left_in_groups(Path::new(GROUPS), &group);
    Some(left.unwrap_or(u64::MAX).min(kibibytes * 1024))
}

/// The least that is left in the group that `/proc/self/cgroup` names and in those that it is in. In a
/// container the name may be one of the host's: only its own groups are there then, and count.
fn left_in_groups(root: &Path, text: &str) -> Option<u64> {
    let name = text.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default();
    let folder = root.join(name.trim_end());
    folder.ancestors().take_while(|folder| folder.starts_with(root)).filter_map(left).min()
}

/// What is left in one group, where it has a limit. Pages of files count as used until something else
/// needs them, so they are taken off: a model that was just fetched would else be in its own way.
fn left(group: &Path) -> Option<u64> {
    let read = |name: &str| fs::read_to_string(group.join(name)).ok();
    let number = |name: &str| read(name)?.trim().parse::<u64>().ok();
    let (limit, used) = (number("memory.max")?, number("memory.current")?);
    let pages = read("memory.stat").unwrap_or_default();
    let of_files = pages.lines().filter_map(|line| {
        let (name, bytes) = line.split_once(' ')?;
        if ["active_file", "inactive_file"].contains(&name) {
            bytes.parse::<u64>().ok()
        } else {
            None
        }
    });
    Some(limit.saturating_sub(used.saturating_sub(of_files.sum::<u64>())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_os = "linux")]
    #[test]
    fn the_free_memory_is_known() {
        let bytes = available_bytes().expect("Linux says");
        assert!(bytes > 1 << 20 && bytes < 1 << 50, "{bytes}");
    }

    fn group(folder: &Path, files: [(&str, &str); 3]) {
        fs::create_dir_all(folder).expect("a folder");
        for (name, text) in files {
            fs::write(folder.join(name), text).expect("a file");
        }
    }

    #[test]
    fn the_tightest_group_counts_and_pages_of_files_are_free() {
        let root = tempfile::tempdir().expect("a folder");
        let service = root.path().join("system.slice/olmo.service");
        let inner = [
            ("memory.max", "1000\n"),
            ("memory.current", "900\n"),
            ("memory.stat", "anon 100\ninactive_file 500\nactive_file 200\nfile 750\n"),
        ];
        group(&service, inner);
        let text = "1:cpu:/other\n0::/system.slice/olmo.service\n";
        assert_eq!(left_in_groups(root.path(), text), Some(800));
        let outer = [("memory.max", "600\n"), ("memory.current", "500\n"), ("memory.stat", "")];
        group(&root.path().join("system.slice"), outer);
        assert_eq!(left_in_groups(root.path(), text), Some(100));

        // Without a limit, and where there are none.
        group(
            &service,
            [("memory.max", "max\n"), ("memory.current", "900\n"), ("memory.stat", "")],
        );
        assert_eq!(left_in_groups(root.path(), text), Some(100));
        assert_eq!(left_in_groups(root.path(), "0::/elsewhere"), None);
        // A container that sees its own groups under the host's name.
        group(root.path(), inner);
        assert_eq!(left_in_groups(root.path(), "0::/docker/0123"), Some(800));
    }
}

//! How much memory the machine, or the container around the process, can still give.

use std::path::{Path, PathBuf};
use std::{fs, io};

/// Bytes that this process may still take without swapping or being killed: the least of
/// `MemAvailable` and of what each control group above the process leaves.
///
/// # Errors
/// Where `/proc/meminfo` does not say.
pub fn available_bytes() -> io::Result<usize> {
    let meminfo = fs::read_to_string("/proc/meminfo")?;
    let machine = kib_field(&meminfo, "MemAvailable:")
        .ok_or_else(|| io::Error::other("/proc/meminfo has no MemAvailable"))?;
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    Ok(group_folders(&groups).iter().filter_map(|dir| left_in(dir)).fold(machine, usize::min))
}

/// A line such as `MemAvailable:   23456 kB`, in bytes.
fn kib_field(text: &str, name: &str) -> Option<usize> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<usize>().ok()? * 1024)
}

/// Folders of the groups that hold the process, from `/proc/self/cgroup`. In a container the path
/// may be the host's and the group mounted at the root, so each path's ancestors are looked at.
fn group_folders(text: &str) -> Vec<PathBuf> {
    let mut folders = Vec::new();
    for line in text.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { continue };
        let root = match controllers {
            "" => Path::new("/sys/fs/cgroup"),
            "memory" => Path::new("/sys/fs/cgroup/memory"),
            _ => continue,
        };
        let inner = root.join(path.trim_start_matches('/'));
        folders
            .extend(inner.ancestors().take_while(|dir| dir.starts_with(root)).map(Path::to_owned));
    }
    folders
}

/// The limit of one group less what it uses. Cached file pages that can be dropped do not count.
fn left_in(folder: &Path) -> Option<usize> {
    let read = |name: &str| fs::read_to_string(folder.join(name)).ok();
    let number = |name: &str| read(name)?.trim().parse::<usize>().ok();
    let limit = number("memory.max").or_else(|| number("memory.limit_in_bytes"))?;
    let used = number("memory.current").or_else(|| number("memory.usage_in_bytes"))?;
    let stat = read("memory.stat").unwrap_or_default();
    // Version 1 counts the groups below in `usage` but not in `inactive_file`.
    let field = |name| stat.lines().find_map(|line| line.strip_prefix(name));
    let dropped = field("total_inactive_file ").or_else(|| field("inactive_file "));
    let dropped = dropped.and_then(|bytes| bytes.parse().ok()).unwrap_or(0);
    Some(limit.saturating_sub(used.saturating_sub(dropped)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_the_kernel_writes() {
        let meminfo = "MemTotal:       24689048 kB\nMemAvailable:   23456789 kB\n";
        assert_eq!(kib_field(meminfo, "MemAvailable:"), Some(23_456_789 * 1024));
        assert_eq!(kib_field(meminfo, "SwapFree:"), None);
        let folders = group_folders("4:memory:/a/b\n3:cpu:/x\n0::/c\n");
        let names: Vec<_> = folders.iter().map(|dir| dir.to_str().unwrap()).collect();
        assert_eq!(
            names,
            [
                "/sys/fs/cgroup/memory/a/b",
                "/sys/fs/cgroup/memory/a",
                "/sys/fs/cgroup/memory",
                "/sys/fs/cgroup/c",
                "/sys/fs/cgroup"
            ]
        );
    }

    #[test]
    fn a_group_counts_what_it_can_drop_as_free() {
        let folder = std::env::temp_dir().join(format!("engine-cgroup-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("memory.max"), "1000\n").unwrap();
        fs::write(folder.join("memory.current"), "700\n").unwrap();
        fs::write(folder.join("memory.stat"), "anon 400\ninactive_file 300\n").unwrap();
        assert_eq!(left_in(&folder), Some(600));
        fs::write(folder.join("memory.max"), "max\n").unwrap();
        assert_eq!(left_in(&folder), None, "no limit");
        fs::remove_dir_all(&folder).unwrap();
    }
}

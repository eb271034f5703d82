//! What a figure was measured on. Without it, no figure means anything.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use humansize::{BINARY, format_size};
use serde::Serialize;

/// The machine. What the system does not tell is absent.
#[derive(Debug, Clone, Serialize)]
pub struct Machine {
    /// The processor's model.
    pub cpu: Option<String>,
    /// Logical processors that this process may use.
    pub cores: usize,
    /// Main memory.
    pub memory_bytes: Option<u64>,
    /// Name and version of the distribution.
    pub system: Option<String>,
    /// Version of the kernel.
    pub kernel: Option<String>,
    /// Type of the file system that holds what the peers store.
    pub file_system: Option<String>,
    /// Processes that were running or waiting in the minute before, on average. Others' work makes figures worse.
    pub load_average: Option<f64>,
}

impl Machine {
    /// Looks at this machine; `scratch` is where files are written.
    pub(crate) fn look(scratch: &Path) -> Self {
        let read = |path: &str| std::fs::read_to_string(path).ok();
        let value = |path: &str, key: &str, separator: char| field(&read(path)?, key, separator);
        let memory = value("/proc/meminfo", "MemTotal", ':').and_then(|text| kibibytes(&text));
        Self {
            cpu: value("/proc/cpuinfo", "model name", ':'),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            memory_bytes: memory,
            system: value("/etc/os-release", "PRETTY_NAME", '=')
                .map(|name| name.trim_matches('"').to_owned()),
            kernel: read("/proc/sys/kernel/osrelease").map(|text| text.trim().to_owned()),
            file_system: read("/proc/self/mountinfo").and_then(|mounts| file_system(&mounts, scratch)),
            load_average: read("/proc/loadavg").and_then(|text| text.split(' ').next()?.parse().ok()),
        }
    }
}

impl Machine {
    /// The machine in a line.
    pub(crate) fn in_short(&self) -> String {
        let memory = self.memory_bytes.map(|bytes| format_size(bytes, BINARY));
        let known = [self.cpu.clone(), memory, self.system.clone(), self.file_system.clone()];
        let cores = count(self.cores, "core");
        known.into_iter().flatten().chain([cores]).collect::<Vec<_>>().join(", ")
    }
}

/// `1 core`, `2 cores`.
pub(crate) fn count(number: usize, one: &str) -> String {
    format!("{number} {one}{}", if number == 1 { "" } else { "s" })
}

/// Main memory that holds nothing, not even what could be read again.
pub(crate) fn free_memory_bytes() -> Option<u64> {
    kibibytes(&field(&std::fs::read_to_string("/proc/meminfo").ok()?, "MemFree", ':')?)
}

/// The value of the first line `key separator value`.
fn field(text: &str, key: &str, separator: char) -> Option<String> {
    let mut pairs = text.lines().filter_map(|line| line.split_once(separator));
    pairs.find(|(name, _)| name.trim() == key).map(|(_, value)| value.trim().to_owned())
}

fn kibibytes(text: &str) -> Option<u64> {
    text.strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// The type of the file system that `path` is on; see proc_pid_mountinfo(5).
fn file_system(mounts: &str, path: &Path) -> Option<String> {
    let path = path.canonicalize().ok()?;
    let mount = |line: &str| {
        let (before, after) = line.split_once(" - ")?;
        let point = before.split(' ').nth(4)?;
        let depth = Path::new(point).components().count();
        path.starts_with(point).then(|| Some((depth, after.split(' ').next()?.to_owned())))?
    };
    // Of mounts at the same place the last one is seen.
    mounts.lines().filter_map(mount).max_by_key(|(depth, _)| *depth).map(|(_, kind)| kind)
}

/// Bytes that can still be written to the file system of `folder`.
#[cfg(target_os = "linux")]
pub(crate) fn free_bytes(folder: &Path) -> Option<u64> {
    let state = rustix::fs::statvfs(folder).ok()?;
    state.f_bavail.checked_mul(state.f_frsize)
}

/// Nobody knows here.
#[cfg(not(target_os = "linux"))]
pub(crate) fn free_bytes(_: &Path) -> Option<u64> {
    None
}

/// The time now, in UTC: `2026-11-21 13:45`.
pub(crate) fn now() -> String {
    format_time(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()))
}

/// Days and years as in Howard Hinnant's `civil_from_days`: years begin in March, so that the leap day comes last.
fn format_time(seconds: u64) -> String {
    let (days, second) = (seconds / 86_400 + 719_468, seconds % 86_400);
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year + year / 4 - year / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year + era * 400 + u64::from(month <= 2);
    format!("{year}-{month:02}-{day:02} {:02}:{:02}", second / 3600, second / 60 % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_linux_tells() {
        let text = "processor\t: 0\nmodel name\t: Some CPU @ 2GHz\nmodel name\t: other\n";
        assert_eq!(field(text, "model name", ':').unwrap(), "Some CPU @ 2GHz");
        assert_eq!(field(text, "name", ':'), None);
        assert_eq!(kibibytes("1024 kB"), Some(1 << 20));
        assert_eq!(kibibytes("many"), None);
        let mounts = "1 0 0:1 / / rw - ext4 /dev/a rw\n2 1 0:2 / /nowhere rw shared:1 - tmpfs t rw\nbroken\n";
        assert_eq!(file_system(mounts, Path::new("/")).unwrap(), "ext4");
        assert_eq!(file_system("", Path::new("/")), None);
    }

    #[test]
    fn this_machine_has_cores() {
        assert!(Machine::look(Path::new(".")).cores > 0);
        #[cfg(target_os = "linux")]
        assert!(free_bytes(Path::new(".")).is_some());
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        assert_eq!(format_time(0), "1970-01-01 00:00");
        assert_eq!(format_time(951_782_399), "2000-02-28 23:59");
        assert_eq!(format_time(951_782_400), "2000-02-29 00:00");
        assert_eq!(format_time(1_795_268_700), "2026-11-21 13:45");
        assert_eq!(format_time(4_107_542_400), "2100-03-01 00:00");
    }
}

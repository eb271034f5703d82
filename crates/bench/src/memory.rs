//! How much memory this process has used, and memory that is there when it is needed.

use std::hint::black_box;

use qstore::TensorBytes;

/// A byte of every page is as good as all.
const PAGE: usize = 4096;

/// The most memory that was resident at once, in bytes; `None` where the system does not tell (elsewhere than on
/// Linux).
#[must_use]
pub fn peak_rss_bytes() -> Option<u64> {
    // See proc_pid_status(5); the unit is always kB.
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    parse_peak(&status)
}

/// Uses `bytes` of memory and gives them back, and begins to count the peak anew.
///
/// A virtual machine's host takes away what is free for seconds, and it comes back slowly: of peers that load as much,
/// the one that comes first was seen to take ten times as long as the others.
pub(crate) fn settle(bytes: u64) {
    if let Ok(mut memory) = TensorBytes::zeroed(bytes) {
        memory.iter_mut().step_by(PAGE).for_each(|byte| *byte = 1);
        black_box(&*memory);
    }
    // See proc_pid_clear_refs(5). Where it cannot be done the peak is too high, never too low.
    drop(std::fs::write("/proc/self/clear_refs", "5"));
}

fn parse_peak(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_high_water_mark() {
        assert_eq!(parse_peak("Name:\tx\nVmHWM:\t    5228 kB\nVmRSS:\t 1 kB\n"), Some(5228 * 1024));
        assert_eq!(parse_peak("Name:\tx\n"), None);
        assert_eq!(parse_peak("VmHWM: many\n"), None);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn this_process_uses_memory() {
        assert!(peak_rss_bytes().unwrap() > 100_000);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn settling_leaves_no_peak() {
        if std::fs::write("/proc/self/clear_refs", "5").is_ok() {
            let leaves_none = || {
                let before = peak_rss_bytes().unwrap();
                settle(1 << 28);
                peak_rss_bytes().unwrap() < before + (1 << 27)
            };
            // Other tests of this process may use as much meanwhile.
            assert!((0..20).any(|_| leaves_none()));
        }
    }
}

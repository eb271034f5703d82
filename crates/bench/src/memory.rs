//! How much memory this process has used.

/// The most memory that was resident at once, in bytes; `None` where the system does not tell (elsewhere than on Linux).
#[must_use]
pub fn peak_rss_bytes() -> Option<u64> {
    // See proc_pid_status(5); the unit is always kB.
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    parse_peak(&status)
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
}

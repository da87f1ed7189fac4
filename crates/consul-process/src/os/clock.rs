//! The machine's clock.

use std::time::Duration;

/// On Linux, the clock that goes on while the machine is suspended: a lease of two seconds has
/// expired two seconds later, even if the machine was suspended in between.
#[cfg(target_os = "linux")]
const CLOCK: libc::clockid_t = libc::CLOCK_BOOTTIME;
#[cfg(not(target_os = "linux"))]
const CLOCK: libc::clockid_t = libc::CLOCK_MONOTONIC;

/// The time since a fixed moment before the start of this process; it never goes back. On Linux it
/// goes on while the machine is suspended.
pub fn uptime() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the time outlives the call, which cannot fail, because the clock exists.
    unsafe { libc::clock_gettime(CLOCK, &mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// The random id of this start of the machine; `None` on systems without one.
pub fn boot_id() -> Option<String> {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(id.trim().to_owned()).filter(|id| !id.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_os = "linux")]
    fn the_uptime_is_the_systems_own_suspensions_included() {
        let told = || {
            let text = std::fs::read_to_string("/proc/uptime").unwrap();
            Duration::from_secs_f64(text.split(' ').next().unwrap().parse().unwrap())
        };
        // The system reports hundredths of a second.
        let (before, ours, after) = (told(), uptime(), told() + Duration::from_millis(10));
        assert!((before..=after).contains(&ours), "{before:?} {ours:?} {after:?}");
    }
}

//! Random numbers of the operating system.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;

/// A generator with a seed from the operating system. A generator that a thread keeps, like `fastrand`'s without one,
/// would give a forked child and its siblings the numbers of their parent.
pub fn generator() -> fastrand::Rng {
    fastrand::Rng::with_seed(seed().unwrap_or_else(seed_without_system))
}

#[cfg(target_os = "linux")]
fn seed() -> Option<u64> {
    let mut seed = [0u8; 8];
    // SAFETY: the buffer outlives the call, and has this length.
    let length = unsafe { libc::syscall(libc::SYS_getrandom, seed.as_mut_ptr(), seed.len(), 0) };
    (length == seed.len() as libc::c_long).then(|| u64::from_ne_bytes(seed))
}

#[cfg(not(target_os = "linux"))]
fn seed() -> Option<u64> {
    let mut seed = [0u8; 8];
    // SAFETY: the buffer outlives the call, and has this length.
    let refused = unsafe { libc::getentropy(seed.as_mut_ptr().cast(), seed.len()) };
    (refused == 0).then(|| u64::from_ne_bytes(seed))
}

/// A number that differs between processes, for a sandbox that refuses random numbers.
fn seed_without_system() -> u64 {
    let keys = RandomState::new();
    keys.hash_one((std::process::id(), super::uptime()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    #[test]
    fn forked_children_draw_other_numbers_than_each_other() {
        for make in [generator, || fastrand::Rng::with_seed(seed_without_system())] {
            // The parent has drawn before.
            let mut drawn = HashSet::from([make().u64(..)]);
            let (mut ours, mut theirs) = UnixStream::pair().unwrap();
            for _ in 0..8 {
                // SAFETY: the child draws, writes and ends.
                let child = unsafe { libc::fork() };
                if child == 0 {
                    let written = theirs.write_all(&make().u64(..).to_ne_bytes());
                    // SAFETY: ends the child at once.
                    unsafe { libc::_exit(i32::from(written.is_err())) };
                }
                let mut status = 0;
                // SAFETY: the child is ours, and the status outlives the call.
                assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
                let mut number = [0; 8];
                ours.read_exact(&mut number).unwrap();
                assert!(drawn.insert(u64::from_ne_bytes(number)), "{drawn:?}");
            }
        }
    }
}

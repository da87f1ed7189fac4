//! A value that each process has for itself, also a forked one.

use super::fork_generation;
use std::convert::Infallible;
use std::sync::OnceLock;

/// A value that the first use in a process makes. A forked child leaves that of its parent in the chain,
/// untouched, and makes one for itself.
///
/// A chain instead of a lock: a fork while another thread has the lock would leave it locked in the child
/// forever.
#[derive(Debug)]
pub struct PerProcess<T>(OnceLock<Box<Link<T>>>);

#[derive(Debug)]
struct Link<T> {
    generation: u32,
    value: T,
    of_child: PerProcess<T>,
}

impl<T> PerProcess<T> {
    /// Nothing yet.
    #[allow(clippy::new_without_default)] // only statics have one
    pub const fn new() -> Self {
        PerProcess(OnceLock::new())
    }

    /// The value of this process, which `make` makes if there is none. Of two threads that make one, one
    /// drops its own.
    ///
    /// # Errors
    /// Errors of `make`.
    pub fn get_or_try_make<E>(&self, make: impl FnOnce() -> Result<T, E>) -> Result<&T, E> {
        let generation = fork_generation();
        let mut chain = self;
        while let Some(link) = chain.0.get() {
            if link.generation == generation {
                return Ok(&link.value);
            }
            chain = &link.of_child;
        }
        let link = Link { generation, value: make()?, of_child: PerProcess::new() };
        Ok(&chain.0.get_or_init(|| Box::new(link)).value)
    }
}

impl<T: Default> PerProcess<T> {
    /// The value of this process, at first the default.
    pub fn get(&self) -> &T {
        let Ok(value) = self.get_or_try_make(|| Ok::<T, Infallible>(T::default()));
        value
    }
}

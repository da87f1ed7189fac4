//! The rules of a protocol. Tests leave one out to show that it is needed.

/// The rules in force: each value of `R`, unless a test leaves it out.
#[derive(Clone, Copy, Debug)]
pub struct Rules<R> {
    #[cfg(feature = "sabotage")]
    omitted: Option<R>,
    #[cfg(not(feature = "sabotage"))]
    all: std::marker::PhantomData<R>,
}

impl<R> Default for Rules<R> {
    fn default() -> Self {
        Rules {
            #[cfg(feature = "sabotage")]
            omitted: None,
            #[cfg(not(feature = "sabotage"))]
            all: std::marker::PhantomData,
        }
    }
}

impl<R: PartialEq> Rules<R> {
    /// All rules but one, for tests.
    #[cfg(feature = "sabotage")]
    pub fn without(rule: R) -> Self {
        Rules { omitted: Some(rule) }
    }

    /// Whether a rule is in force.
    #[cfg(feature = "sabotage")]
    pub fn has(&self, rule: R) -> bool {
        self.omitted.as_ref() != Some(&rule)
    }

    /// Whether a rule is in force: always.
    #[cfg(not(feature = "sabotage"))]
    pub fn has(&self, _: R) -> bool {
        true
    }
}

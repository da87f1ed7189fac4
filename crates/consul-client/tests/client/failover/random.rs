//! Random sequences of faults.

use super::Does::*;
use super::{Does, LEADERSHIP_LOST, NO_LEADER, TIMEOUT, World, acquire, lock, put};
use consul_api::error::Kind;
use consul_api::request::{Args, Defaults};
use proptest::prelude::*;
use std::time::Duration;

fn fault() -> impl Strategy<Value = Does> {
    prop_oneof![
        Just(Refuse),
        Just(BadTls),
        Just(Nothing),
        (0..4000u64).prop_map(Cut),
        Just(CutApplied),
        Just(ApplySilently),
        Just(NO_LEADER),
        Just(Say(500, "No known Consul servers", None)),
        Just(Say(500, LEADERSHIP_LOST, None)),
        Just(Say(503, "", None)),
        (0..4u64).prop_map(|seconds| Say(429, "", Some(seconds))),
        Just(StaleOnly),
    ]
}

/// One call, and what happens between the calls.
#[derive(Clone, Debug)]
enum Step {
    Get,
    Put,
    Cas,
    Acquire,
    Pass(u64),
    Break(usize, Vec<Does>),
    Mend(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => Just(Step::Get),
        2 => Just(Step::Put),
        1 => Just(Step::Cas),
        1 => Just(Step::Acquire),
        1 => (0..90_000u64).prop_map(Step::Pass),
        3 => (0..4usize, prop::collection::vec(fault(), 1..4))
            .prop_map(|(index, plan)| Step::Break(index, plan)),
        1 => (0..4usize).prop_map(Step::Mend),
    ]
}

/// The number of sequences; scripts/soak.sh sets a higher one.
fn cases() -> u32 {
    std::env::var("SEQUENCES").ok().and_then(|count| count.parse().ok()).unwrap_or(400)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, ..ProptestConfig::default() })]

    /// For all sequences of faults: no call takes longer than its budget; a write that must not be
    /// repeated is never sent again once it may have been applied; and a read or an idempotent
    /// write succeeds if one endpoint works during the call.
    ///
    /// The last is true if the timeout is longer than the pauses of one round, up to 50, 100 and
    /// 200 ms, and the shortest attempt for each endpoint, 100 ms: here 750 of 5,000 ms.
    #[test]
    fn no_sequence_of_faults_breaks_the_promises(
        count in 1..=4usize,
        seed in any::<u64>(),
        falls_back in any::<bool>(),
        steps in prop::collection::vec(step(), 1..25),
    ) {
        let defaults = Defaults { stale_if_error: falls_back, ..Defaults::default() };
        let world = World::with(vec![vec![Work]; count], defaults, seed);
        let session = world.session();
        let mut works = vec![true; count];
        for step in steps {
            let (method, args, may_repeat) = match step.clone() {
                Step::Get => ("kv_get", Args::new().arg("k"), true),
                Step::Put => ("kv_put", put(), true),
                Step::Cas => ("kv_put", put().opt("cas", 0), false),
                Step::Acquire => ("kv_put", acquire(&session), false),
                Step::Pass(ms) => {
                    world.advance(Duration::from_millis(ms));
                    continue;
                }
                Step::Break(index, plan) => {
                    works[index % count] = false;
                    lock(&world.state.plans)[index % count] = plan.into();
                    continue;
                }
                Step::Mend(index) => {
                    works[index % count] = true;
                    world.now_does(index % count, Work);
                    continue;
                }
            };
            world.log();
            let begun = world.now_ms();
            let outcome = world.call(method, args);
            let took = world.now_ms() - begun;
            prop_assert!(took <= TIMEOUT.as_millis(), "{step:?} took {took} ms");
            let log = world.log();
            let writes: Vec<_> = log.iter().filter(|got| got.what.starts_with("PUT")).collect();
            if !may_repeat {
                let open = writes.iter().filter(|got| got.maybe_applied).count();
                prop_assert!(open <= 1, "{step:?}: {log:?}");
            }
            if may_repeat && works.contains(&true) {
                prop_assert!(outcome.is_ok(), "{step:?}: {outcome:?} {log:?}");
            }
            if let (Step::Acquire, Ok(_)) = (&step, &outcome) {
                prop_assert_eq!(world.holder(), Some(session.clone()));
            }
            if let Err(error) = &outcome {
                let is_open = writes.iter().any(|got| got.maybe_applied);
                prop_assert!(error.maybe_applied() || !is_open || error.kind() == Kind::Conflict, "{error:?} {log:?}");
            }
        }
    }
}

//! Profiles: the times of checks, beats, sessions and leases, derived from a few chosen ones.

use consul_api::api::session::TTL_RANGE_S;
use consul_api::error::Error;
use consul_api::table::{DURATION, Shape};
use consul_api::value::Value;
use consul_api::value::shape::{ValuePath, unknown};
use std::time::Duration;

/// The shortest beat: each is a request.
const MIN_BEAT: Duration = Duration::from_millis(10);

/// A compromise between a fast detection of crashes and a tolerance of long stalls.
///
/// A holder relies on its lock for `lease` from the start of its last proof. When Consul ends the
/// session of the holder, for any reason, no other session can acquire the lock before `lock_delay`
/// has passed. That is longer, so the old holder has stopped before the new one starts.
#[derive(Clone, Debug, PartialEq)]
pub struct Profile {
    /// The name by which a program chooses it; `custom` for chosen times.
    pub name: &'static str,
    /// The TTL of the check: this long after the last beat it turns critical.
    pub check_ttl: Duration,
    /// The interval of the beats.
    pub beat: Duration,
    /// How long a proof is valid, from the moment of its request.
    pub lease: Duration,
    /// The longest time from the start of a protected action until it arrives.
    pub in_flight: Duration,
    /// The largest difference in rate between the clocks of holder and server, as a fraction of 1.
    pub drift: f64,
    /// How long Consul keeps a lock from all sessions after it has ended the holder's session.
    pub lock_delay: Duration,
    /// The TTL of a session, which ends it when all else fails.
    pub session_ttl: Duration,
    /// Whether the end of the agent, as gossip sees it, ends the sessions.
    pub node_checks: bool,
}

/// Consul ends a session that is not renewed after up to this many times its TTL.
///
/// Source: `SessionTTLMultiplier` in `agent/structs/structs.go` of Consul's source.
pub(super) const SESSION_TTL_MULTIPLIER: u32 = 2;

/// The shortest TTL of a session.
const MIN_SESSION_TTL: Duration = Duration::from_secs(TTL_RANGE_S.0);

/// How long one blocking query of a waiter lasts at least and at most. The waiter renews its session before each, so
/// this must be well below the shortest TTL of a session.
const QUERY_WAIT: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(5));

/// A profile that a program can choose by name.
pub struct NamedProfile {
    /// Its name.
    pub name: &'static str,
    /// Its purpose; docs/coordination.md and the annotations show the same words.
    pub purpose: &'static str,
    /// Its times.
    pub profile: fn() -> Profile,
}

impl Profile {
    /// The profile `fast`: a crash is noticed and its lock free after up to 3.3 seconds.
    pub fn fast() -> Self {
        Self::derived("fast", 2000, 400, 1000, 250)
    }

    /// The profile `default`: a crash is noticed and its lock free after up to 5.6 seconds.
    pub fn standard() -> Self {
        Self::derived("default", 3000, 500, 2000, 500)
    }

    /// The profile `wan`: a crash is noticed and its lock free after up to 13.1 seconds.
    pub fn wan() -> Self {
        Self::derived("wan", 6000, 1000, 6000, 1000)
    }

    /// How long a key that another client has changed has to stay as it is before it is taken over: by then the lease of
    /// each holder is over, whichever of the named profiles it has.
    pub(super) fn settled_after(&self) -> Duration {
        self.lock_delay.max(Self::wan().lock_delay)
    }

    /// Every named profile, the default first.
    pub const NAMED: &'static [NamedProfile] = &[
        NamedProfile {
            name: "default",
            purpose: "for agents and servers in one network: tolerates a stall of host or agent of 2 seconds.",
            profile: Profile::standard,
        },
        NamedProfile {
            name: "fast",
            purpose: "for machines with little load where seconds count: tolerates 1 second.",
            profile: Profile::fast,
        },
        NamedProfile {
            name: "wan",
            purpose: "for distant servers or overloaded machines: tolerates 5 seconds.",
            profile: Profile::wan,
        },
    ];

    /// The names of the profiles.
    pub const NAMES: &'static [&'static str] =
        &[Self::NAMED[0].name, Self::NAMED[1].name, Self::NAMED[2].name];

    /// Finds a profile by its name.
    pub fn named(name: &str) -> Option<Self> {
        Self::NAMED.iter().find(|named| named.name == name).map(|named| (named.profile)())
    }

    /// The profile that a program chose: a name, or a table of the times that differ from the
    /// default.
    ///
    /// # Errors
    /// An unknown name or time, a wrong type, and times that do not fit together.
    pub fn from_value(value: &Value, at: &ValuePath) -> Result<Self, Error> {
        let Value::Map(times) = value else {
            let Value::Bytes(_) = value else {
                return Err(at.wrong_type_text("the name of a profile or a table of times", value));
            };
            let name = Shape::Text.text(value, at)?;
            let named = Self::named(&name);
            return named
                .ok_or_else(|| at.bad_value(value, &unknown("profile", &name, Self::NAMES)));
        };
        let mut profile = Self { name: "custom", ..Self::standard() };
        let (mut lock_delay, mut session_ttl) = (None, None);
        for (name, value) in times {
            let at = at.member(name);
            let ms = || Shape::Millis.duration(value, &at);
            match name.as_str() {
                "check_ttl_ms" => profile.check_ttl = ms()?,
                "beat_ms" => profile.beat = ms()?,
                "lease_ms" => profile.lease = ms()?,
                "in_flight_ms" => profile.in_flight = ms()?,
                "lock_delay_ms" => lock_delay = Some(ms()?),
                "session_ttl_s" => session_ttl = Some(DURATION.duration(value, &at)?),
                "node_checks" => {
                    profile.node_checks = Shape::Bool.boolean(value, &at)?;
                }
                "drift" => {
                    profile.drift = match value {
                        Value::Int(number) => *number as f64,
                        Value::Float(number) => *number,
                        _ => return Err(at.wrong_type_text("a number", value)),
                    }
                }
                _ => {
                    let known: Vec<_> = Self::MEMBERS.iter().map(|(name, ..)| *name).collect();
                    return Err(Error::misuse(unknown("time of a profile", name, &known)));
                }
            }
        }
        let least = Duration::from_secs(profile.min_session_ttl().as_secs_f64().ceil() as u64);
        profile.session_ttl = session_ttl.unwrap_or(least);
        // Checked first: an invalid drift cannot be multiplied with a duration.
        profile.check_times()?;
        profile.lock_delay = lock_delay.unwrap_or(profile.min_lock_delay());
        profile.check()?;
        Ok(profile)
    }

    /// The choices of a program: the name, the type and the meaning of each.
    pub const MEMBERS: &'static [(&'static str, &'static str, &'static str)] = &[
        (
            "beat_ms",
            "number",
            "how often this process updates its check, at least 10 and at most a third of check_ttl_ms",
        ),
        (
            "check_ttl_ms",
            "number",
            "how long after the last beat the check of this process turns critical",
        ),
        (
            "drift",
            "number",
            "how much faster or slower the clocks of holder and server may go, as a part of 1, from 0 to 0.5",
        ),
        (
            "in_flight_ms",
            "number",
            "the longest time that a protected action, once begun, can take to arrive; at least 1",
        ),
        (
            "lease_ms",
            "number",
            "how long a proof of holding the lock counts, from the moment of its request; at least 80",
        ),
        (
            "lock_delay_ms",
            "number",
            "how long Consul keeps a lock from all sessions after its session ended without a release; default: the shortest that is safe",
        ),
        (
            "node_checks",
            "boolean",
            "whether the end of the agent, as Consul's gossip sees it, ends the sessions (its check `serfHealth`); default true. With \
             false a stall of the whole machine is tolerated as long as check_ttl_ms says, and its death is noticed by session_ttl_s alone",
        ),
        (
            "session_ttl_s",
            "number",
            "how long a session lives without a renewal, from 10 to 86,400; default: 10, or 0.6 of check_ttl_ms if that is more",
        ),
    ];

    /// All times, chosen and derived, by the names that programs see.
    pub fn values(&self) -> Vec<(&'static str, Value)> {
        vec![
            ("name", self.name.into()),
            ("check_ttl_ms", ms(self.check_ttl)),
            ("beat_ms", ms(self.beat)),
            ("lease_ms", ms(self.lease)),
            ("proof_interval_ms", ms(self.proof_interval())),
            ("proof_timeout_ms", ms(self.proof_timeout())),
            ("in_flight_ms", ms(self.in_flight)),
            ("drift", self.drift.into()),
            ("lock_delay_ms", ms(self.lock_delay)),
            ("session_ttl_s", number(self.session_ttl.as_secs_f64())),
            ("renew_interval_ms", ms(self.renew_interval())),
            ("node_checks", self.node_checks.into()),
            ("takeover_ms", ms(self.takeover())),
            ("machine_takeover_ms", ms(self.machine_takeover())),
        ]
    }

    fn derived(
        name: &'static str,
        check_ttl_ms: u64,
        beat_ms: u64,
        lease_ms: u64,
        in_flight_ms: u64,
    ) -> Self {
        let mut profile = Self {
            name,
            check_ttl: Duration::from_millis(check_ttl_ms),
            beat: Duration::from_millis(beat_ms),
            lease: Duration::from_millis(lease_ms),
            in_flight: Duration::from_millis(in_flight_ms),
            drift: 0.01,
            lock_delay: Duration::ZERO,
            session_ttl: MIN_SESSION_TTL,
            node_checks: true,
        };
        profile.lock_delay = profile.min_lock_delay();
        profile
    }

    /// The shortest TTL of a session with which a stall that the check tolerates ends no session. Consul ends one after twice its
    /// TTL, and the last renewal may be three tenths of it before the stall.
    ///
    /// Source: `SessionTTLMultiplier` in `agent/structs/structs.go` of Consul's source.
    fn min_session_ttl(&self) -> Duration {
        self.check_ttl.mul_f64(0.6).max(MIN_SESSION_TTL)
    }

    /// The shortest lock delay that is safe, rounded up to 10 ms.
    pub fn min_lock_delay(&self) -> Duration {
        let least = (self.lease + self.in_flight).mul_f64(1.0 + self.drift);
        Duration::from_millis((least.as_micros() as u64).div_ceil(10_000) * 10)
    }

    /// The interval of proofs.
    pub fn proof_interval(&self) -> Duration {
        self.lease / 8
    }

    /// The time limit of one proof; several must fit into the lease.
    pub fn proof_timeout(&self) -> Duration {
        self.lease / 4
    }

    /// How long one blocking query of a waiter or a candidate lasts: an answer that is lost without a sign is missed no longer
    /// than until the limit of the query.
    pub fn query_wait(&self) -> Duration {
        self.check_ttl.clamp(QUERY_WAIT.0, QUERY_WAIT.1)
    }

    /// How long a request that frees a lock, or that a candidacy needs, waits for its answer before it is made again.
    pub fn patience(&self) -> Duration {
        self.check_ttl / 2
    }

    /// The interval of session renewals.
    pub fn renew_interval(&self) -> Duration {
        self.session_ttl * 3 / 10
    }

    /// The time until the renewal after one whose reply had this TTL: a longer TTL than the session's asks
    /// for fewer renewals, up to four times the session's. Consul ends a session after twice its TTL, so one wrong reply
    /// does not end it.
    pub(super) fn renew_interval_after(&self, ttl: Option<Duration>) -> Duration {
        ttl.unwrap_or_default().clamp(self.session_ttl, self.session_ttl * 4) * 3 / 10
    }

    /// The longest time from the crash of a holder until a waiter has the lock, while the servers
    /// and its agent are healthy: the check expires, then the lock delay.
    pub fn takeover(&self) -> Duration {
        self.check_ttl + self.lock_delay
    }

    /// The longest time from the crash of a holder's agent, or of their machine, until a waiter has the lock, while
    /// the servers are healthy: nobody reports the check then, so the session's TTL ends it, unless gossip is faster.
    pub fn machine_takeover(&self) -> Duration {
        self.session_ttl * SESSION_TTL_MULTIPLIER + self.lock_delay
    }

    /// Checks that the times fit together.
    ///
    /// # Errors
    /// [`consul_api::error::Kind::Argument`], naming the broken rule and the values that break it.
    pub fn check(&self) -> Result<(), Error> {
        self.check_times()?;
        let refuse = |why: String| Err(Error::argument(why));
        let ms = |duration: Duration| duration.as_millis();
        if self.lock_delay < self.min_lock_delay() {
            return refuse(format!(
                "lock_delay_ms is {}; it must be at least (lease_ms + in_flight_ms) × (1 + drift), which is {}",
                ms(self.lock_delay),
                ms(self.min_lock_delay())
            ));
        }
        if self.lock_delay > Duration::from_secs(consul_api::api::session::MAX_LOCK_DELAY_S) {
            return refuse(format!(
                "lock_delay_ms is {}; it must be at most {} s, the longest lock delay of Consul",
                ms(self.lock_delay),
                consul_api::api::session::MAX_LOCK_DELAY_S
            ));
        }
        Ok(())
    }

    /// The rules without the lock delay, which is derived from the other times.
    fn check_times(&self) -> Result<(), Error> {
        let refuse = |why: String| Err(Error::argument(why));
        let ms = |duration: Duration| duration.as_millis();
        if self.beat < MIN_BEAT || self.lease < Duration::from_millis(80) {
            return refuse(format!(
                "beat_ms is {} and lease_ms is {}; beat_ms must be at least {} and lease_ms at least 80",
                self.beat.as_secs_f64() * 1e3,
                ms(self.lease),
                ms(MIN_BEAT)
            ));
        }
        if self.in_flight < Duration::from_millis(1) {
            return refuse(format!(
                "in_flight_ms is {}; it must be at least 1, the shortest time limit of a request",
                self.in_flight.as_secs_f64() * 1e3
            ));
        }
        if self.beat > self.check_ttl / 3 {
            return refuse(format!(
                "beat_ms is {}; it must be at most a third of check_ttl_ms, which is {}",
                ms(self.beat),
                ms(self.check_ttl)
            ));
        }
        if !(0.0..=0.5).contains(&self.drift) {
            return refuse(format!("drift is {}; it must be from 0 to 0.5", self.drift));
        }
        if self.session_ttl < MIN_SESSION_TTL
            || self.session_ttl > Duration::from_secs(TTL_RANGE_S.1)
        {
            return refuse(format!(
                "session_ttl_s is {}; it must be from {} to {}, the TTLs of Consul",
                self.session_ttl.as_secs_f64(),
                MIN_SESSION_TTL.as_secs(),
                TTL_RANGE_S.1
            ));
        }
        if self.session_ttl < self.min_session_ttl() {
            return refuse(format!(
                "session_ttl_s is {}; it must be at least 0.6 of check_ttl_ms, which is {} s",
                self.session_ttl.as_secs_f64(),
                self.min_session_ttl().as_secs_f64()
            ));
        }
        if self.session_ttl < self.lease + self.proof_timeout() * 2 {
            return refuse(format!(
                "session_ttl_s is {}; it must be at least 1.5 times lease_ms, which is {} s",
                self.session_ttl.as_secs_f64(),
                (self.lease + self.proof_timeout() * 2).as_secs_f64()
            ));
        }
        Ok(())
    }
}

fn ms(duration: Duration) -> Value {
    number(duration.as_micros() as f64 / 1e3)
}

fn number(number: f64) -> Value {
    if number.fract() == 0.0 { Value::Int(number as i64) } else { number.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_named_profiles_keep_the_rules() {
        for name in Profile::NAMES {
            let profile = Profile::named(name).expect("a profile");
            assert_eq!(profile.name, *name);
            profile.check().expect("a good profile");
        }
        assert_eq!(Profile::named("slow"), None);
    }

    #[test]
    fn renewals_are_neither_more_frequent_than_usual_nor_so_rare_that_the_session_ends() {
        let after = |s: u64| Profile::standard().renew_interval_after(Some(Duration::from_secs(s)));
        assert_eq!(Profile::standard().renew_interval_after(None), Duration::from_secs(3));
        let seconds = [0, 9, 10, 40, 86_400, 86_401, u64::MAX].map(|s| after(s).as_secs());
        assert_eq!(seconds, [3, 3, 3, 12, 12, 12, 12]);
        for profile in [Profile::fast(), Profile::standard(), Profile::wan()] {
            let longest = profile.renew_interval_after(Some(Duration::MAX));
            assert!(longest + profile.check_ttl < profile.session_ttl * 2, "{profile:?}");
        }
    }

    #[test]
    fn a_lock_delay_covers_lease_flight_and_drift() {
        let delays = [Profile::fast(), Profile::standard(), Profile::wan()]
            .map(|profile| profile.lock_delay.as_millis());
        assert_eq!(delays, [1270, 2530, 7070]);
        for tenths in 0..2000 {
            let lease = Duration::from_micros(80_000 + 100 * tenths);
            let profile =
                Profile { lease, in_flight: Duration::from_micros(8900), ..Profile::fast() };
            let least = (lease.as_secs_f64() + 0.0089) * 1.01;
            let (delay, most) = (profile.min_lock_delay().as_secs_f64(), least + 0.0101);
            assert!((least - 1e-6..most).contains(&delay), "{lease:?}: {delay}");
        }
    }

    #[test]
    fn a_program_names_a_profile_or_the_times_in_which_it_differs() {
        let chosen = |value: Value| Profile::from_value(&value, &ValuePath::top("profile"));
        assert_eq!(chosen("fast".into()).expect("a name"), Profile::fast());
        let given = Value::Map(vec![
            ("lease_ms".to_owned(), 3000.into()),
            ("drift".to_owned(), 0.02.into()),
        ]);
        let custom = chosen(given).expect("good times");
        assert_eq!((custom.name, custom.lease), ("custom", Duration::from_secs(3)));
        assert_eq!(custom.lock_delay, custom.min_lock_delay());
        assert_eq!(custom.check_ttl, Profile::standard().check_ttl);
        let given = vec![("check_ttl_ms".to_owned(), Value::Int(60_001))];
        let slow = chosen(Value::Map(given)).expect("good times");
        assert_eq!(slow.session_ttl, Duration::from_secs(37));
        let given = vec![
            ("check_ttl_ms".to_owned(), Value::Int(60_000)),
            ("session_ttl_s".to_owned(), Value::Int(35)),
        ];
        let error = chosen(Value::Map(given)).expect_err("sessions end in a stall");
        assert!(error.message().contains("0.6 of check_ttl_ms, which is 36 s"), "{error}");
        let refused = |name: &str, value: Value| {
            let error = chosen(Value::Map(vec![(name.to_owned(), value)])).expect_err("refused");
            (error.is_misuse(), error.message().to_owned())
        };
        for (name, value, is_misuse, why) in [
            ("lease_m", Value::Int(1), true, "did you mean \"lease_ms\"?"),
            ("beat_ms", "soon".into(), true, "profile.beat_ms must be"),
            ("beat_ms", Value::Int(1001), false, "a third of check_ttl_ms"),
            ("beat_ms", Value::Float(0.0001), false, "beat_ms must be at least 10"),
            ("beat_ms", Value::Int(9), false, "beat_ms must be at least 10"),
            (
                "in_flight_ms",
                Value::Float(0.9),
                false,
                "in_flight_ms is 0.9; it must be at least 1",
            ),
            ("session_ttl_s", Value::Int(9), false, "from 10 to 86400"),
            ("session_ttl_s", Value::Int(86_401), false, "from 10 to 86400"),
            ("lock_delay_ms", Value::Int(2520), false, "(lease_ms + in_flight_ms)"),
            ("drift", Value::Float(f64::NAN), false, "from 0 to 0.5"),
            ("drift", Value::Float(-1.0), false, "from 0 to 0.5"),
        ] {
            let (misused, message) = refused(name, value);
            assert!(message.contains(why) && misused == is_misuse, "{name}: {message}");
        }
        let error = chosen("fats".into()).expect_err("no profile");
        assert!(error.message().contains("did you mean \"fast\"?"), "{error}");
        assert!(chosen(Value::Int(1)).expect_err("no profile").is_misuse());
    }

    #[test]
    fn a_violated_rule_is_named() {
        let broken = |change: fn(&mut Profile), word: &str| {
            let mut profile = Profile::standard();
            change(&mut profile);
            let error = profile.check().expect_err("a broken rule");
            assert!(error.message().contains(word), "{error}");
        };
        broken(|p| p.beat = Duration::from_millis(1001), "a third of check_ttl_ms");
        broken(|p| p.beat = Duration::ZERO, "at least 10");
        broken(|p| p.lock_delay = Duration::from_millis(2520), "lock_delay_ms");
        broken(|p| p.lock_delay = Duration::from_secs(61), "at most 60 s");
        broken(|p| p.session_ttl = Duration::from_secs(9), "session_ttl_s");
        broken(|p| p.drift = 0.6, "drift");
    }
}

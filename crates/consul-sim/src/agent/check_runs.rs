//! The runs of checks, what their results make of the status of a check, and aliases.

use super::checks::{DueCheck, Probe, ProbeResult, Schedule};
use super::local::LocalCheck;
use crate::Agent;
use crate::store::State;
use crate::store::catalog::Check;
use crate::store::timer::Timer;
use futures_util::future::{Either, join_all, select};
use std::sync::Arc;
use std::time::Duration;

/// Returns an abandoned run to the state, so that another caller does it.
struct Running<'a> {
    agent: &'a Agent,
    due: Option<DueCheck>,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        if let Some(due) = self.due.take() {
            self.agent.lock().due_checks.push(due);
        }
    }
}

impl Agent {
    /// Runs the due checks concurrently.
    pub(crate) async fn run_due_checks(&self) {
        let due = self.with(State::take_due_checks);
        join_all(due.into_iter().map(|due| self.run_check(due))).await;
    }

    /// Runs one check and records its result.
    pub(crate) async fn run_check(&self, due: DueCheck) {
        let mut running = Running { agent: self, due: Some(due.clone()) };
        let deadline = self.clock.now() + due.timeout;
        let probe = self.options.prober.probe(&due.probe);
        let finding = match select(probe, self.clock.sleep_until(deadline)).await {
            Either::Left((finding, _)) => finding,
            Either::Right(_) => ProbeResult::Failed(timed_out(&due)),
        };
        running.due = None;
        self.with(|state| state.finish_check(&due, finding));
    }
}

fn timed_out(due: &DueCheck) -> String {
    match &*due.probe {
        Probe::Tcp { address, .. } => format!("dial tcp {address}: i/o timeout"),
        Probe::Http { .. } => {
            "context deadline exceeded (Client.Timeout exceeded while awaiting headers)".to_owned()
        }
        Probe::Udp(address) => format!("read udp {address}: i/o timeout"),
        Probe::Grpc { .. } => {
            "rpc error: code = DeadlineExceeded desc = context deadline exceeded".to_owned()
        }
        Probe::H2Ping { .. } => "HTTP2 ping failed: context deadline exceeded".to_owned(),
        Probe::Script(_) => {
            format!("Timed out ({}) running check", crate::go::duration_text(due.timeout))
        }
    }
}

impl State {
    /// The due runs, which the caller has to do.
    pub fn take_due_checks(&mut self) -> Vec<DueCheck> {
        std::mem::take(&mut self.due_checks)
    }

    /// Schedules the first run of a check at a random moment within its interval, so that the
    /// checks of an agent do not run together.
    pub fn schedule_check(&mut self, id: &str) {
        self.last_generation += 1;
        let generation = self.last_generation;
        let part = self.rng.f64();
        let Some(schedule) = self.schedule(id) else { return };
        schedule.generation = generation;
        let wait = schedule.interval.mul_f64(part);
        self.run_check_in(id, wait);
    }

    fn schedule(&mut self, id: &str) -> Option<&mut Schedule> {
        self.local.checks.get_mut(id)?.schedule.as_mut()
    }

    fn run_check_in(&mut self, id: &str, wait: Duration) {
        let next = self.timers.set(self.now + wait, Timer::RunCheck(id.to_owned()));
        if let Some(schedule) = self.schedule(id) {
            schedule.next = Some(next);
        }
    }

    /// The timer of a check's next run fired.
    pub fn check_is_due(&mut self, id: &str) {
        let Some(schedule) = self.schedule(id) else { return };
        schedule.next = None;
        let due = DueCheck {
            id: id.to_owned(),
            generation: schedule.generation,
            probe: Arc::clone(&schedule.probe),
            timeout: schedule.timeout,
        };
        self.due_checks.push(due);
    }

    /// Records the result of a run, and schedules the next one.
    fn finish_check(&mut self, due: &DueCheck, finding: ProbeResult) {
        let Some(local) = self.local.checks.get_mut(&due.id) else { return };
        let found = status_and_output(&due.probe, finding, local.output_max_size);
        let Some(schedule) =
            local.schedule.as_mut().filter(|known| known.generation == due.generation)
        else {
            return;
        };
        let interval = schedule.interval;
        if let Some((status, output)) = found
            && let Some(status) = schedule.count(status)
        {
            self.set_status(&due.id, status, output);
        }
        self.run_check_in(&due.id, interval);
    }

    /// Updates the checks that mirror a service.
    pub fn refresh_aliases(&mut self) {
        let aliases = self.local.checks.iter().filter(|(_, local)| local.alias.is_some());
        let aliases: Vec<_> = aliases.map(|(id, _)| id.clone()).collect();
        // An alias may mirror another; the limit of rounds ends a cycle of aliases.
        for _ in 0..aliases.len() {
            let mut changed = false;
            for id in &aliases {
                let Some((status, output)) = self.alias_state(id) else { continue };
                let check = &self.local.checks[id].check;
                if (check.status.as_str(), check.output.as_str()) != (status, output.as_str()) {
                    self.set_status(id, status, output);
                    changed = true;
                }
            }
            if !changed {
                return;
            }
        }
    }

    /// The status and output of an alias: from the checks of its service and of that service's
    /// node.
    fn alias_state(&self, id: &str) -> Option<(&'static str, String)> {
        let alias = self.local.checks.get(id)?.alias.as_ref()?;
        let own = alias.node.is_empty() || alias.node.eq_ignore_ascii_case(&self.node_name);
        let record = self.catalog.node(&alias.node);
        let (checks, known): (Vec<&Check>, bool) = if own {
            let checks = self.local.checks.values().map(|local: &LocalCheck| &local.check);
            (checks.collect(), self.local.services.contains_key(&alias.service))
        } else {
            let checks = record.into_iter().flat_map(|record| record.checks.values());
            let service = self.catalog.service(&alias.node, &alias.service);
            // Consul treats a node that does not exist as one with the service.
            (checks.collect(), record.is_none() || service.is_some())
        };
        let mut state = ("passing", "No checks found.".to_owned());
        let mut found = known || alias.service.is_empty();
        for check in checks.into_iter().filter(|check| !own || check.check_id != id) {
            let matches = check.service_id == alias.service;
            if !check.service_id.is_empty() && !matches {
                continue;
            }
            found |= matches;
            let failing = || format!("Aliased check {:?} failing: {}", check.name, check.output);
            match check.status.as_str() {
                "critical" => {
                    state = ("critical", failing());
                    break;
                }
                "warning" => state = ("warning", failing()),
                _ if state.0 == "passing" => state.1 = "All checks passing.".to_owned(),
                _ => {}
            }
        }
        if !found {
            let (service, node) = (&alias.service, &alias.node);
            let why = format!("Service {service} could not be found on node {node}");
            return Some(("critical", why));
        }
        Some(state)
    }
}

/// The status and output of a check for the result of its probe; `None` if it was not run.
fn status_and_output(
    probe: &Probe,
    finding: ProbeResult,
    most: usize,
) -> Option<(&'static str, String)> {
    Some(match (probe, finding) {
        (_, ProbeResult::NotRun) => return None,
        (Probe::Tcp { address, tls }, ProbeResult::Connected) => {
            let with = if tls.is_some() { "TCP+TLS" } else { "TCP" };
            ("passing", format!("{with} connect {address}: Success"))
        }
        (Probe::Udp(address), ProbeResult::Connected) => {
            ("passing", format!("UDP connect {address}: Success"))
        }
        (_, ProbeResult::Said { status, output }) => (status, output),
        (_, ProbeResult::Exited { code, output }) => {
            let status = match code {
                Some(0) => "passing",
                Some(1) => "warning",
                _ => "critical",
            };
            (status, last_part(&output, most))
        }
        (Probe::Http { method, url, .. }, ProbeResult::Answered { code, status, body }) => {
            // The end of a long body is kept.
            let kept = &body[body.len().saturating_sub(most)..];
            let kept = crate::go::lossy(kept);
            let output = format!("HTTP {method} {url}: {status} Output: {kept}");
            match code {
                200..=299 => ("passing", output),
                429 => ("warning", output),
                _ => ("critical", output),
            }
        }
        (Probe::Http { method, url, .. }, ProbeResult::Failed(why)) => {
            ("critical", failed_at(method, url, &why))
        }
        (Probe::Http { method, .. }, ProbeResult::Redirected { url, why }) => {
            ("critical", failed_at(method, &url, &why))
        }
        (_, ProbeResult::Failed(why)) => ("critical", why),
        (_, other) => ("critical", format!("{other:?}")),
    })
}

/// The error of a request as Go's client words it.
fn failed_at(method: &str, url: &str, why: &str) -> String {
    // The method may be any text.
    let method = match method.split_at_checked(1) {
        Some((first, rest)) if method.is_ascii() => format!("{first}{}", rest.to_ascii_lowercase()),
        _ => method.to_owned(),
    };
    format!("{method} {url:?}: {why}")
}

/// The end of what a program printed.
fn last_part(output: &[u8], most: usize) -> String {
    let kept = crate::go::lossy(&output[output.len().saturating_sub(most)..]);
    if output.len() <= most {
        return kept;
    }
    format!("Captured {most} of {} bytes\n...\n{kept}", output.len())
}

#[cfg(test)]
mod tests {
    use super::super::checks::{CheckTls, Prober};
    use super::*;
    use crate::control::testing::World;
    use consul_process::clock::BoxFuture;
    use std::sync::Mutex;

    const SECOND: Duration = Duration::from_secs(1);

    /// A prober that returns the configured result.
    #[derive(Debug, Default)]
    struct Told(Mutex<Option<ProbeResult>>);

    impl Prober for Told {
        fn probe<'a>(&'a self, _: &'a Probe) -> BoxFuture<'a, ProbeResult> {
            let finding = self.0.lock().expect("not poisoned").clone();
            Box::pin(async move {
                match finding {
                    Some(finding) => finding,
                    None => std::future::pending().await,
                }
            })
        }
    }

    fn world() -> (World, Arc<Told>) {
        let told = Arc::new(Told::default());
        (World::with_prober(Arc::clone(&told) as Arc<dyn Prober>), told)
    }

    #[test]
    fn a_failure_names_the_method_as_go_does() {
        for (method, named) in [("GET", "Get"), ("PURGE", "Purge"), ("\u{c4}", "\u{c4}"), ("", "")]
        {
            let probe = Probe::Http {
                url: "http://a/".to_owned(),
                method: method.to_owned(),
                headers: Vec::new(),
                body: String::new(),
                follows: true,
                tls: CheckTls::default(),
            };
            let found = status_and_output(&probe, ProbeResult::Failed("refused".to_owned()), 0);
            let output = format!("{named} \"http://a/\": refused");
            assert_eq!(found, Some(("critical", output)));
        }
    }

    fn answer(code: u16) -> ProbeResult {
        ProbeResult::Answered { code, status: format!("{code} X"), body: b"hello".to_vec() }
    }

    fn check(world: &World) -> (String, String) {
        let check = world.get("agent/checks").json()["c"].clone();
        let text = |name: &str| check[name].as_str().unwrap_or("").to_owned();
        (text("Status"), text("Output"))
    }

    fn register(world: &World, more: &str) {
        let body = format!("{{\"Name\":\"c\",\"HTTP\":\"http://x/\",\"Interval\":\"10s\"{more}}}");
        assert_eq!(world.put("agent/check/register", &body).status(), 200);
    }

    fn find(world: &World, told: &Told, finding: ProbeResult) {
        *told.0.lock().expect("not poisoned") = Some(finding);
        world.advance(SECOND * 10);
        world.get("agent/checks");
    }

    #[test]
    fn the_status_of_an_answer_is_the_state_of_the_check() {
        let (world, told) = world();
        register(&world, "");
        assert_eq!(check(&world), ("critical".to_owned(), String::new()));
        for (code, status) in [(204, "passing"), (429, "warning"), (500, "critical")] {
            find(&world, &told, answer(code));
            let output = format!("HTTP GET http://x/: {code} X Output: hello");
            assert_eq!(check(&world), (status.to_owned(), output));
        }
        find(&world, &told, ProbeResult::Failed("EOF".to_owned()));
        assert_eq!(check(&world).1, "Get \"http://x/\": EOF");
    }

    #[test]
    fn the_first_result_counts_at_once_and_later_ones_when_there_are_enough() {
        let (world, told) = world();
        register(
            &world,
            ",\"SuccessBeforePassing\":2,\"FailuresBeforeWarning\":2,\"FailuresBeforeCritical\":3",
        );
        for (code, status) in [
            (200, "passing"),
            (500, "passing"),
            (500, "warning"),
            (500, "critical"),
            (200, "critical"),
            (200, "passing"),
        ] {
            find(&world, &told, answer(code));
            assert_eq!(check(&world).0, status);
        }
    }

    #[test]
    fn a_probe_that_takes_too_long_has_failed() {
        let (world, _) = world();
        register(&world, ",\"Timeout\":\"2s\",\"Status\":\"passing\"");
        let mut watch = world.watch("kv/none?index=1000000&wait=5m");
        world.clock.advance(SECOND * 10);
        assert!(watch.waits());
        world.clock.advance(SECOND * 2);
        assert!(watch.waits());
        assert!(check(&world).1.contains("context deadline exceeded"), "{:?}", check(&world));
    }

    #[test]
    fn the_result_of_an_earlier_definition_does_not_count() {
        let (world, _) = world();
        register(&world, ",\"Timeout\":\"2s\",\"Status\":\"passing\"");
        let mut watch = world.watch("kv/none?index=1000000&wait=5m");
        world.clock.advance(SECOND * 10);
        assert!(watch.waits());
        register(&world, ",\"Timeout\":\"1h\"");
        world.clock.advance(SECOND * 2);
        assert!(watch.waits());
        assert_eq!(check(&world).0, "passing");
    }

    #[test]
    fn a_waiting_call_runs_the_checks_for_all() {
        let (world, told) = world();
        *told.0.lock().expect("not poisoned") = Some(answer(200));
        register(&world, "");
        let index = world.get("health/node/sim").index();
        let mut watch = world.watch(&format!("health/node/sim?index={index}&wait=5m"));
        assert!(watch.waits());
        world.clock.advance(SECOND * 10);
        assert!(watch.answer().is_some());
    }

    #[test]
    fn an_alias_mirrors_the_checks_of_its_service() {
        let (world, _) = world();
        world.put("agent/check/register", r#"{"Name":"c","AliasService":"w"}"#);
        let missing = ("critical".to_owned(), "Service w could not be found on node ".to_owned());
        assert_eq!(check(&world), missing);
        world.put("agent/service/register", r#"{"Name":"w","Check":{"TTL":"1h"}}"#);
        world.put("agent/check/pass/service:w", "");
        assert_eq!(check(&world), ("passing".to_owned(), "All checks passing.".to_owned()));
        world.put("agent/check/warn/service:w?note=slow", "");
        let output = "Aliased check \"Service 'w' check\" failing: slow".to_owned();
        assert_eq!(check(&world), ("warning".to_owned(), output));
        world.put("agent/check/fail/service:w", "");
        assert_eq!(check(&world).0, "critical");
        world.put("agent/check/pass/service:w", "");
        // Checks of the node count too, checks of another service do not.
        let own = r#"{"Name":"x","Check":{"TTL":"1h"}}"#;
        world.put("agent/service/register", own);
        assert_eq!(check(&world).0, "passing");
        world.put("agent/check/register", r#"{"Name":"node","TTL":"1h"}"#);
        assert_eq!(check(&world).0, "critical");
    }
}

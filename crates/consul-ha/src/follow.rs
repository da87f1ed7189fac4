//! The reports of the nodes, and the cluster as a whole: `why`, `events` and `serve`.

use super::arguments::{Events, Serve};
use super::connection::{Session, View};
use super::failure::Failure;
use super::look::say_age;
use super::output::{Output, Shown, is_unread, line, print, print_json, say};
use consul_cluster::observe::overview::{EventOverview, Level, Problem};
use consul_cluster::observe::status::{Nodes, StatusServer};
use serde_json::json;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The pause between two looks.
const PAUSE: Duration = Duration::from_secs(1);

/// The number of printed events that are remembered: more than all nodes report at a time.
const MAX_SEEN: usize = 65_536;

/// How long an answer of `serve` waits for Consul: who asks has a limit too, and sees what was known last. The time of day
/// in the numbers must not be so late that `ClusterClockWrong` fires.
const SERVED_WITHIN: Duration = Duration::from_millis(1500);

/// `why`
pub async fn why(session: &Session) -> Result<Shown, Failure> {
    let View { overview, .. } = session.settled_view().await?;
    let problems = &overview.problems;
    let level = |level| match level {
        Level::Error => "error",
        Level::Warning => "warning",
        Level::Note => "note",
    };
    let lines = problems
        .iter()
        .map(|it| format!("{}: {}\n    {}", level(it.level), line(&it.text), line(&it.cure)));
    let text = match problems.is_empty() {
        true => "all is well".to_owned(),
        false => lines.collect::<Vec<_>>().join("\n"),
    };
    let is_well = problems.iter().all(is_note);
    let json = json!({ "problems": problems, "age_ms": overview.age_ms });
    Ok(Shown { text, json, is_well })
}

/// Whether an operator wanted it so: all else is not well.
pub fn is_note(problem: &Problem) -> bool {
    problem.level == Level::Note
}

/// `why --wait`
pub async fn wait_until_well(session: &Session, limit: u64, output: Output) -> Result<(), Failure> {
    let end = Instant::now() + Duration::from_secs(limit);
    loop {
        let is_over = Instant::now() >= end;
        match why(session).await {
            Ok(shown) if shown.is_well => return output.show(&shown),
            Ok(shown) if is_over => {
                let _ = output.show(&shown);
                return Err(Failure::Limit(format!("not all is well after {limit} s")));
            }
            Err(Failure::Call(error)) if error.is_transient() && !is_over => {
                say(&format!("consul-ha: {error}"));
            }
            Err(failure) => return Err(failure),
            Ok(_) => {}
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// `events`
pub async fn events(session: &Session, given: &Events, output: Output) -> Result<(), Failure> {
    let mut seen = BTreeSet::new();
    let view = session.view().await?;
    say_age(view.overview.age_ms);
    tell(&view.overview.events, &mut seen, output);
    while given.follow && !is_unread() {
        tokio::time::sleep(PAUSE).await;
        match view.again().await {
            Ok(overview) => tell(&overview.events, &mut seen, output),
            Err(error) => output.failure(&session.explained(error.into()).await),
        }
    }
    Ok(())
}

/// `serve`
pub async fn serve(session: &Session, given: &Serve, output: Output) -> Result<(), Failure> {
    let cluster = session.observer()?;
    let overviews = session.overviews_within(&cluster, SERVED_WITHIN)?;
    let nodes = Arc::<Nodes>::default();
    nodes.add(&overviews);
    let server = StatusServer::bind(&given.listen, &given.host, nodes)?;
    let url = format!("http://{}/", server.address());
    output.done(session, &format!("serves {url}"), json!({ "url": url }), false).await?;
    tokio::select! {
        why = cluster.run() => Err(why.into()),
        never = server.serve() => match never {},
    }
}

/// Prints the events that were not printed yet.
fn tell(events: &[EventOverview], seen: &mut BTreeSet<(u64, String, u64)>, output: Output) {
    for it in events {
        // A node that was started again counts from 1.
        if !seen.insert((it.at_ms, it.node_id.clone(), it.seq)) {
            continue;
        }
        if seen.len() > MAX_SEEN {
            seen.pop_first();
        }
        if output.json {
            print_json(&json!(it));
        } else {
            let detail = match (it.event.as_str(), it.detail.as_str()) {
                ("leader_changed", "") => "none",
                (_, detail) => detail,
            };
            let text = format!("{}Z  {}  {} {detail}", utc(it.at_ms), it.node_id, it.event);
            print(line(&text).trim_end());
        }
    }
}

/// A moment as `2026-11-22 09:30:00`, in UTC.
pub fn utc(at_ms: u64) -> String {
    let (days, seconds) = (at_ms / 86_400_000, at_ms / 1000 % 86_400);
    // H. Hinnant, "chrono-Compatible Low-Level Date Algorithms": years begin in March.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_are_not_well_and_notes_are() {
        for (level, is_well) in
            [(Level::Error, false), (Level::Warning, false), (Level::Note, true)]
        {
            let [of, text, cure] = Default::default();
            assert_eq!(is_note(&Problem { problem: "it", level, of, text, cure }), is_well);
        }
    }

    #[test]
    fn moments_are_dates_of_the_calendar() {
        for (seconds, date) in [
            (0, "1970-01-01 00:00:00"),
            (951_782_400, "2000-02-29 00:00:00"),
            (1_735_689_599, "2024-12-31 23:59:59"),
            (1_767_225_600, "2026-01-01 00:00:00"),
            (1_795_339_800, "2026-11-22 09:30:00"),
            (4_107_542_399, "2100-02-28 23:59:59"),
            (4_107_542_400, "2100-03-01 00:00:00"),
        ] {
            assert_eq!(utc(seconds * 1000 + 999), date);
        }
    }
}

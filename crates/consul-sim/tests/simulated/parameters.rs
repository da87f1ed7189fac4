//! Each read with each of its documented parameters, with values that fit and values that do not: consul-sim answers with the
//! status of Consul 1.21.

use crate::served::{Outcome, ask};
use crate::support::agent::UNKNOWN_PATHS;
use crate::support::consul::{self, RealConsul};
use crate::support::trials::Trials;
use consul_api as wire;
use consul_api::table::{Location, Verb};

pub fn trials() -> Trials {
    let mut trials = Trials::of(module_path!());
    let what = "each read with each of its parameters, on Consul 1.21";
    let missing = consul::is_missing(consul::SIM, what) || consul::is_missing("1.21", what);
    let name = "each_documented_parameter_has_consuls_status [1.21]";
    trials.add_unless(missing, name, each_documented_parameter_has_consuls_status);
    trials
}

/// They do not end, or their answers are of gossip, which a new server has a moment later.
const NOT_ASKED: &[&str] = &["agent_monitor", "operator_autopilot_health", "raw"];

const VALUES: &[&str] = &["", "x", "1", "-1", "true", "10s", "a:b"];

/// The path of each read, with a name in the place of each parameter, and its parameters.
fn reads() -> impl Iterator<Item = (String, Vec<&'static str>)> {
    let reads = wire::endpoints().filter(|endpoint| endpoint.method == Verb::Get);
    let reads = reads.filter(|endpoint| !NOT_ASKED.contains(&endpoint.name));
    reads.map(|endpoint| {
        let mut path = endpoint.path.to_owned();
        while let Some((start, end)) = path.find('{').zip(path.find('}')) {
            path.replace_range(start..=end, "none");
        }
        let all = endpoint.all_options().chain(endpoint.positional);
        let mut names: Vec<_> = all
            .filter_map(|option| match option.location {
                Location::Query(name) => Some(name),
                _ => None,
            })
            .collect();
        names.extend(["dc", "ns", "partition", "filter", "stale", "consistent", "near"]);
        names.sort_unstable();
        names.dedup();
        (path, names)
    })
}

fn each_documented_parameter_has_consuls_status() -> Outcome {
    let agents = [RealConsul::start(consul::SIM)?, RealConsul::start("1.21")?];
    let mut wrong = Vec::new();
    for (path, names) in
        reads().filter(|(path, _)| !UNKNOWN_PATHS.iter().any(|it| path.starts_with(it)))
    {
        for name in names {
            for value in VALUES {
                // It waits.
                if name == "index" && *value == "1" {
                    continue;
                }
                let target = format!("{path}?{name}={value}");
                let status = |agent: &RealConsul| ask(&agent.address, "GET", &target, "");
                let [ours, real] = [status(&agents[0])?, status(&agents[1])?];
                if ours.statuses != real.statuses {
                    wrong.push(format!(
                        "{target}: {:?}, on 1.21 {:?}",
                        ours.statuses, real.statuses
                    ));
                }
            }
        }
    }
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n").into()) }
}
